"""Studies: search spaces, what is refused before the first trial, and what trials come to."""

import csv
import itertools
import shlex
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import optuna
import pytest
import sweep_stand_in
import yaml
from optuna.trial import TrialState
from sweep_stand_in import GRID
from sweep_studies import TWO, found, trained, write

from lightning_pocket.cli import main
from lightning_pocket.sweeps.outcome import outcomes
from lightning_pocket.sweeps.parameters import short_names
from lightning_pocket.sweeps.space import read_space

pytestmark = pytest.mark.usefixtures("stand_in")


def test_a_grid_is_every_combination_that_counts():
    space = read_space(
        {
            "conv": {"type": "categorical", "choices": ["standard", "grouped"]},
            "group_size": {"type": "categorical", "choices": [1, 8], "when": {"conv": ["grouped"]}},
            "tied": {"type": "categorical", "choices": [True, False], "when": {"group_size": [1]}},
            "depth": {"type": "int", "low": 2, "high": 6, "step": 2},
            "rate": {"type": "float", "low": 0, "high": "3e-1", "step": 0.1},
        },
        "file",
    )
    kinds = [
        {"conv": "standard"},
        {"conv": "grouped", "group_size": 1, "tied": True},
        {"conv": "grouped", "group_size": 1, "tied": False},
        {"conv": "grouped", "group_size": 8},
    ]
    expected = [
        kind | {"depth": depth, "rate": rate}
        for kind, depth, rate in itertools.product(kinds, [2, 4, 6], [0, 0.1, 0.2, 0.3])
    ]
    assert space.points() == expected
    samples = space.samples()
    for name, values in {
        "conv": {"standard", "grouped"},
        "tied": {True, False},
        "depth": {2, 6},
        "rate": {0, 0.3},
    }.items():
        assert {point[name] for point in samples if name in point} == values
    assert all(point in expected for point in samples)


def test_values_become_configs_and_options():
    space = read_space(
        {
            "network": {"type": "config", "choices": {"plain": [], "both": ["resnet", "separable"]}},
            "preset": {"type": "config", "choices": ["full", "pocket"]},
            "a.strides": {"type": "categorical", "choices": {"thin": [1, 2, 2], "even": [2, 2, 2]}},
            "a.decay": {"type": "categorical", "choices": ["1e-3", 0, None]},
        },
        "file",
    )
    point = {"network": "both", "preset": "pocket", "a.strides": "thin", "a.decay": 0.001}
    assert point in space.points()
    assert space.configs(point) == ["resnet", "separable", "pocket"]
    assert space.options(point) == {"a.strides": [1, 2, 2], "a.decay": 0.001}
    assert space.show(point) == "network=both, preset=pocket, strides=thin, decay=0.001"


def test_what_is_checked_of_a_range_can_be_drawn():
    """Nothing above the last step, which pocket fit may refuse with reason."""
    space = read_space(
        {
            "base": {"type": "int", "low": 8, "high": 30, "step": 8},
            "rate": {"type": "float", "low": 0.1, "high": 1, "step": 0.4},
        },
        "file",
    )
    drawn = [(point["base"], point["rate"]) for point in space.samples()]
    assert {base for base, _ in drawn} == {8, 24}
    assert {rate for _, rate in drawn} == {0.1, 0.9}
    assert {point["base"] for point in space.points()} == {8, 16, 24}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optuna warns of a range that its step does not divide
        assert space.suggest(optuna.create_study().ask())["base"] in (8, 16, 24)


def test_text_stays_text_and_numbers_that_yaml_misses_are_numbers():
    read = yaml.safe_load("{type: categorical, choices: ['32', 16-mixed, 1e-3, 1e-4]}")
    (values,) = [entry.values() for entry in read_space({"trainer.precision": read}, "file").parameters.values()]
    assert values == ["32", "16-mixed", 0.001, 0.0001]


def test_short_names_tell_parameters_apart():
    keys = ["model.init_args.lr", "data.init_args.lr", "model.widths.base", "other"]
    assert list(short_names(keys, {"other": "mine"}).values()) == ["model.lr", "data.lr", "base", "mine"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"spase": {}}, "there is no key 'spase'. Did you mean space?"),
        ({"space": {"x": {"type": "categorical"}}}, "space: x: has no choices"),
        ({"space": {"x": {"type": "float", "low": 1, "high": 0}}}, "expected low to be at most high"),
        ({"space": {"x": {"type": "float", "low": "a", "high": 2}}}, "low is 'a', expected a number"),
        ({"space": {"x": {"type": "float", "low": float("nan"), "high": 2}}}, "low is nan, expected a finite number"),
        ({"space": {"x": {"type": "int", "low": 1, "high": float("inf")}}}, "high is inf, expected a finite number"),
        ({"space": {"x": {"type": "int", "low": 1, "high": 2, "step": 0}}}, "step is 0, expected it to be above 0"),
        ({"space": {"x": {"type": "int", "low": 0.5, "high": 2}}}, "expected a whole number. Take type float"),
        ({"space": {"x": {"type": "float", "low": 0, "high": 1, "log": True}}}, "a logarithm needs it to be above 0"),
        ({"space": {"x": {"type": "float", "low": 0, "high": 1}}}, "space: x is a range without end"),
        ({"space": {"x": {"type": "categorical", "choices": [[1], [2]]}}}, "give each a name"),
        ({"space": {"x": {"type": "config", "choices": ["pockett"]}}}, "space: x: pockett: no such file"),
        ({"space": {"x": {"type": "categorical", "choices": [1], "when": {"y": [1]}}}}, "no parameter above it"),
        ({"configs": ["nothing"]}, "configs: nothing: no such file"),
        (
            {"objectives": [{"metric": "dise", "direction": "maximize"}]},
            "no metric is called 'dise'. Did you mean dice?",
        ),
        ({"objectives": [{"metric": "dice", "direction": "up"}]}, "direction is 'up', expected maximize or minimize"),
        ({"objectives": [{"metric": "val/dise", "direction": "maximize"}]}, "The task logs val/dice, val/loss"),
        ({"objectives": [{"metric": "auc", "direction": "maximize"}]}, "the runs have no 'auc'; a segmentation has"),
        ({"sampler": "tpee", "trials": 3}, "there is no sampler 'tpee'. Did you mean tpe?"),
        ({"sampler": "tpe"}, "has no trials"),
        ({"sampler": {"name": "tpe", "options": {"startup": 1}}, "trials": 3}, "TPESampler has no option 'startup'"),
        ({"sampler": "nsga2", "trials": 3}, "sampler nsga2 is for several objectives, found 1"),
        (
            {"sampler": "qmc", "trials": 3, "infeasible_on_out_of_memory": True},
            "sampler qmc cannot avoid points. Leave the key out, or take tpe, gp, nsga2, nsga3, or a grid",
        ),
        ({"sampler": {"name": "random", "seed": -1}, "trials": 3}, "seed is -1, expected a whole number from 0"),
        ({"pruner": "medium"}, "there is no pruner 'medium'. Did you mean median?"),
        ({"pruner": {"name": "median", "metric": "dice"}}, "metric is 'dice', expected one of the validation"),
        (
            {"pruner": {"name": "median", "metric": "val/loss"}},
            "of val/loss less is better, but the objective is to max",
        ),
        (
            {"pruner": "median", "objectives": [{"metric": "val/loss", "direction": "minimize"}]},
            "median judges both alike: it would end the best trials. Give it such a metric as val/loss",
        ),
        ({"seeds": []}, "seeds is []"),
        ({"options": {"x": 1}}, "x is in options and in space"),
        ({"space": {"dice": GRID["space"]["x"]}}, "space: dice: trials.csv has another column of this name"),
        ({"space": {"seconds": GRID["space"]["x"]}}, "space: seconds: trials.csv has another column of this name"),
        ({"options": {"run_dir": "a"}}, "run_dir is set for each run by the study"),
        ({"options": {"wrong.key": 1}}, "options: wrong.key: unrecognized arguments: --wrong.key"),
        ({"published": [{"point": {"x": 7}, "values": {}}]}, "x is 7, which is none of its values 0.1, 0.2"),
        ({"published": [{"point": {"x": 0.1}, "values": {"dice": "good"}}]}, "dice is 'good', expected a number"),
    ],
)
def test_what_is_wrong_is_said_before_any_trial(fails, change, said):
    line = fails(["sweep", write(GRID | change)])
    assert said in line, line
    assert len(line.splitlines()) == 1
    assert not Path("log").exists(), "nothing was trained"
    assert not Path("runs/study/study.journal").exists(), "no study was begun"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sampler": "cmaes", "trials": 3}, "sampler cmaes is for one objective, found 2"),
        ({"pruner": "median"}, "pruner median is for one objective, found 2"),
    ],
)
def test_what_does_not_fit_several_objectives_is_refused(fails, change, said):
    assert said in fails(["sweep", write(GRID | {"objectives": TWO} | change)])


def test_a_key_that_no_run_has_is_named(fails):
    wrong = GRID["space"] | {"model.lrr": {"type": "categorical", "choices": [1, 2]}}
    assert "space: model.lrr: unrecognized arguments: --model.lrr" in fails(["sweep", write(GRID | {"space": wrong})])


def test_a_study_has_the_means_over_its_seeds_beside_the_published_numbers(capsys):
    published = [
        {"point": {"x": 0.1}, "label": "low", "values": {"params_M": 0.8, "dice": "0.55 ± 0.01", "dice_median": 0.5}},
        {"point": {"x": 0.4}, "label": "high", "values": {"dice": 0.9}},
    ]
    changed = {"seeds": [0, 2], "published": published, "metrics": ["hd95_px"], "objectives": TWO[:1]}
    main(["sweep", write(GRID | changed), "--jobs=2"])
    with Path("runs/study/trials.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["x"], row["y"]) for row in rows] == list(
        itertools.product(*[("0.1", "0.2", "0.3", "0.4"), ("0.0", "0.5")])
    )
    for row in rows:
        assert float(row["dice"]) == pytest.approx(float(row["x"]) + float(row["y"]) + 0.01)  # seeds add 0 and 0.02
        assert float(row["dice_std"]) == pytest.approx(0.02 / 2**0.5)
        assert row["hd95_px"] == "", "left out: the runs have none"
        assert Path("runs/study", row["run"], "seed_2", "test", "cases.csv").is_file()
    with Path("runs/study/table.csv").open(encoding="utf-8", newline="") as file:
        low, high = csv.DictReader(file)
    assert (low["label"], low["trial"], low["published_params_M"]) == ("low", "1", "0.8")
    assert float(low["dice"]) == pytest.approx(0.61)
    assert low["published_dice"] == "0.55 ± 0.01 (0.5)"
    assert high["trial"] == "7"
    capsys.readouterr()
    main(["sweep", "best", "runs/study"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial 7: x=0.4, y=0.5"
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("pocket ")]
    assert [command[0] for command in commands] == ["fit", "test", "fit", "test"]
    assert "--run_dir=runs/study/again/007/seed_0" in commands[0]
    main(["sweep", "status", "runs/study"])
    assert "8 of 8 trials have ended, 0 run, 0 wait." in capsys.readouterr().out


def test_a_problem_of_all_points_is_blamed_on_none(fails):
    assert fails(["sweep", write(GRID), "--cache=cache"]) == (
        "pocket: error: study.yaml: unrecognized arguments: --data.init_args.cache"
    )


def test_an_action_that_is_misspelt_is_suggested(fails):
    assert "pocket sweep statsu: there is no such action. Did you mean status?" in fails(["sweep", "statsu", "runs"])


@pytest.mark.parametrize(
    ("seeds", "note"),
    [
        ([0, 1], "± is the standard deviation over the 2 runs of a trial."),
        ([0], "± is the standard deviation over the test cases; a value without it is one number for the run."),
    ],
)
def test_tables_say_what_their_spread_is(seeds, note, capsys):
    main(["sweep", write(GRID | {"seeds": seeds}), "--trials=1"])
    assert note in capsys.readouterr().out.splitlines()
    for name in ("index.html", "table.md"):
        assert note in Path("runs/study", name).read_text(encoding="utf-8")


def test_the_page_knows_how_many_trials_were_asked_for():
    main(["sweep", write(GRID), "--trials=1"])
    written = Path("runs/study/index.html").read_text(encoding="utf-8")
    main(["sweep", "plot", "runs/study"])
    assert Path("runs/study/index.html").read_text(encoding="utf-8") == written
    assert "Searched: the first 1 combinations of" in written
    assert "pocket sweep runs/study/sweep.yaml --output=runs/study --trials=1" in written


def test_the_time_of_a_trial_is_that_of_all_attempts():
    """A lost attempt of ten minutes, noticed after a day, an interrupted one of a minute, and the last one of 30 s."""
    start = datetime(2026, 1, 1, 12)

    def attempt(number, state, seconds, **attributes):
        return optuna.trial.create_trial(
            state=state, value=1.0 if state == TrialState.COMPLETE else None, user_attrs={"slot": 0, **attributes}
        ), (number, seconds)

    lease = {"time": (start + timedelta(minutes=10)).astimezone().isoformat()}
    made = [
        attempt(0, TrialState.FAIL, 86400, ended="lost", lease=lease),
        attempt(1, TrialState.FAIL, 60, ended="interrupted", lease=lease),
        attempt(2, TrialState.COMPLETE, 30, lease=lease),
    ]
    for trial, (number, seconds) in made:
        trial.number = number
        trial.datetime_start, trial.datetime_complete = start, start + timedelta(seconds=seconds)

    class Study:
        def trials(self):
            return [trial for trial, _ in made]

        def latest(self):
            return {0: made[-1][0]}

    (outcome,) = outcomes(Study())
    assert outcome.seconds == 600 + 60 + 30
    assert outcome.record()["seconds"] == 690


def test_a_finished_study_trains_nothing_again():
    main(["sweep", write(GRID)])
    main(["sweep", write(GRID | {"title": "Another title"})])
    assert len(trained()) == 8


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (
            {"space": GRID["space"] | {"x": {"type": "categorical", "choices": [0.1, 0.5]}}},
            [],
            "space.x.choices: [0.1, 0.2",
        ),
        ({"seeds": [1]}, [], "seeds: [0] -> [1]"),
        ({}, ["--", "--trainer.max_epochs=9"], "command line: [] -> ['--trainer.max_epochs=9']"),
    ],
)
def test_a_study_goes_on_with_nothing_else(fails, change, more, said):
    main(["sweep", write(GRID), "--trials=1"])
    line = fails(["sweep", write(GRID | change), *more])
    assert "runs/study holds a study that began otherwise" in line
    assert said in line, line


def test_configs_that_were_edited_are_noticed(fails, monkeypatch):
    main(["sweep", write(GRID), "--trials=1"])
    monkeypatch.setattr(sweep_stand_in, "SETTINGS", sweep_stand_in.SETTINGS | {"trainer": {"max_epochs": 3}})
    assert "trainer.max_epochs: 2 -> 3" in fails(["sweep", write(GRID)])


def test_configs_that_only_some_trials_take_are_looked_at_too(fails):
    for name in ("one", "two", "base"):
        Path(f"{name}.yaml").write_text("model: {init_args: {rate: 1}}\n", encoding="utf-8")
    Path("two.yaml").write_text("model: base.yaml\ntrainer: {max_epochs: 2}\n", encoding="utf-8")
    space = {"x": GRID["space"]["x"], "rate": {"type": "config", "choices": {"a": "one.yaml", "b": ["two.yaml"]}}}
    main(["sweep", write(GRID | {"space": space}), "--trials=1"])
    main(["sweep", write(GRID | {"space": space}), "--trials=1"])
    Path("two.yaml").write_text("model: base.yaml\ntrainer: {max_epochs: 3}\n", encoding="utf-8")
    assert "config.two.yaml.trainer.max_epochs: 2 -> 3" in fails(["sweep", write(GRID | {"space": space})])
    Path("two.yaml").write_text("model: base.yaml\ntrainer: {max_epochs: 2}\n", encoding="utf-8")
    Path("base.yaml").write_text("model: {init_args: {rate: 2}}\n", encoding="utf-8")
    assert "rate: 1 -> 2" in fails(["sweep", write(GRID | {"space": space})])
    assert len(trained()) == 1


def ends_with_1(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 1
    return capsys.readouterr().err


def test_a_failed_trial_is_recorded_and_ends_nothing(capsys):
    Path("fails").write_text("--x=0.2 the loss is not finite\n", encoding="utf-8")
    assert "runs/study: 2 of 8 trials failed; --retry_failed" in ends_with_1(["sweep", write(GRID)], capsys)
    assert Path("runs/study/index.html").is_file()
    failed = [outcome for outcome in found() if outcome.state == "failed"]
    assert [outcome.slot for outcome in failed] == [2, 3]
    assert "`pocket fit` failed with status 1: the loss is not finite; log: runs/study/logs/002.log" in failed[0].remark
    Path("fails").unlink()
    ends_with_1(["sweep", write(GRID)], capsys)
    assert len(trained()) == 6, "failures are not tried again unasked"
    main(["sweep", write(GRID), "--retry_failed"])
    assert [outcome.state for outcome in found()] == ["done"] * 8
    assert len(trained()) == 8


def test_a_study_of_failures_is_one(capsys):
    Path("fails").write_text("--seed_everything=0 no room\n", encoding="utf-8")
    with pytest.raises(SystemExit) as caught:
        main(["sweep", write(GRID), "--trials=1"])
    assert caught.value.code == 1
    assert "runs/study: every trial failed: `pocket fit` failed" in capsys.readouterr().err.splitlines()[-1]


def test_running_out_of_memory_can_be_infeasible(capsys):
    Path("fails").write_text(
        "--x=0.2 out of memory on the GPU: lower the batch\n--x=0.3 another reason\n", encoding="utf-8"
    )
    ends_with_1(["sweep", write(GRID | {"infeasible_on_out_of_memory": True})], capsys)
    assert [outcome.state for outcome in found()] == ["done"] * 2 + ["infeasible"] * 2 + ["failed"] * 2 + ["done"] * 2


def test_trials_that_come_to_the_same_are_trained_once(capsys):
    space = GRID["space"] | {"z": {"type": "categorical", "choices": [1, 2, 3]}}
    main(["sweep", write(GRID | {"space": space}), "--jobs=3"])
    assert len(trained()) == 8, "z changes nothing"
    made = found()
    assert len(made) == 24
    for first in range(0, 24, 3):
        trio = made[first : first + 3]
        assert len({tuple(outcome.values) for outcome in trio}) == 1
        assert [outcome.same_as for outcome in trio] == [None, first, first]
    capsys.readouterr()
    main(["sweep", write(GRID | {"space": space}), "--dry_run", "--output=runs/other"])
    assert capsys.readouterr().out.count("which is trained for both") == 16
    assert not Path("runs/other").exists()
