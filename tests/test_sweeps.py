"""Studies: search spaces, what is refused before the first trial, and what trials come to."""

import csv
import itertools
import random
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import sweep_stand_in
import yaml
from sweep_stand_in import GRID

from lightning_pocket import launch
from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.sweeps.definition import Objective
from lightning_pocket.sweeps.outcome import best, outcomes
from lightning_pocket.sweeps.parameters import short_names
from lightning_pocket.sweeps.pruning import PruningWatch
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.space import read_space
from lightning_pocket.sweeps.start import open_study
from lightning_pocket.sweeps.study_storage import open_storage, redact, storage_url


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    """Let a program stand for training, in a folder of the test's own."""
    program = [sys.executable, str(Path(sweep_stand_in.__file__))]
    monkeypatch.setattr(launch, "program", lambda: program)
    monkeypatch.setattr("lightning_pocket.sweeps.start.resolve", sweep_stand_in.resolve)
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    monkeypatch.delenv("POCKET_SWEEP_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(content, path="study.yaml"):
    Path(path).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


def found(folder="runs/study"):
    return outcomes(open_study(Path(folder), None)[0])


def trained():
    return [line for line in Path("log").read_text(encoding="utf-8").splitlines() if line.startswith("trained")]


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
        ({"pruner": "medium"}, "there is no pruner 'medium'. Did you mean median?"),
        ({"pruner": {"name": "median", "metric": "dice"}}, "metric is 'dice', expected one of the validation"),
        ({"seeds": []}, "seeds is []"),
        ({"options": {"x": 1}}, "x is in options and in space"),
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


TWO = [{"metric": "dice", "direction": "maximize"}, {"metric": "parameters", "direction": "minimize"}]


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


def test_a_failed_trial_is_recorded_and_ends_nothing(capsys):
    Path("fails").write_text("--x=0.2 the loss is not finite\n", encoding="utf-8")
    main(["sweep", write(GRID)])
    failed = [outcome for outcome in found() if outcome.state == "failed"]
    assert [outcome.slot for outcome in failed] == [2, 3]
    assert "`pocket fit` failed with status 1: the loss is not finite; log: runs/study/logs/002.log" in failed[0].remark
    assert "2 trials failed" in capsys.readouterr().err
    Path("fails").unlink()
    main(["sweep", write(GRID)])
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


def test_running_out_of_memory_can_be_infeasible():
    Path("fails").write_text(
        "--x=0.2 out of memory on the GPU: lower the batch\n--x=0.3 another reason\n", encoding="utf-8"
    )
    main(["sweep", write(GRID | {"infeasible_on_out_of_memory": True})])
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


def test_a_random_search_draws_what_optuna_draws_and_no_more():
    space = {
        "x": {"type": "float", "low": 0.001, "high": 1, "log": True},
        "y": {"type": "int", "low": 0, "high": 4, "step": 2},
    }
    content = GRID | {"space": space, "sampler": {"name": "random", "seed": 3}, "trials": 3}
    main(["sweep", write(content), "--jobs=2"])
    main(["sweep", write(content), "--trials=5"])
    main(["sweep", write(content)])
    assert len(found()) == len(trained()) == 5
    for outcome in found():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3 * 100_003 + outcome.slot))
        trial = study.ask()
        expected = {"x": trial.suggest_float("x", 0.001, 1, log=True), "y": trial.suggest_int("y", 0, 4, step=2)}
        assert outcome.point == expected
        assert outcome.values == pytest.approx([sum(expected.values())])


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "gp"])
def test_samplers_search_conditional_spaces_for_several_objectives(sampler):
    space = {
        "x": {"type": "categorical", "choices": [0.1, 0.2, 0.3]},
        "y": {"type": "float", "low": 0, "high": 1, "when": {"x": [0.1, 0.3]}},
    }
    options = {"population_size": 2} if sampler == "nsga2" else {"n_startup_trials": 2}
    chosen = {"sampler": {"name": sampler, "options": options}, "trials": 5, "objectives": TWO}
    main(["sweep", write(GRID | {"space": space} | chosen), "--jobs=2"])
    assert [outcome.state for outcome in found()] == ["done"] * 5
    for outcome in found():
        assert ("y" in outcome.point) == (outcome.point["x"] != 0.2)


def test_brute_force_takes_the_grid_in_another_order():
    Path("grid.yaml").write_text(yaml.safe_dump(GRID), encoding="utf-8")
    grid = read_sweep(Path("grid.yaml")).points()
    shuffled = read_sweep(Path(write(GRID | {"sampler": {"name": "brute_force", "seed": 1}}))).points()
    assert shuffled != grid
    assert sorted(map(str, shuffled)) == sorted(map(str, grid))


def test_the_front_of_several_objectives_is_that_of_brute_force():
    class Done:
        same_as = None

        def __init__(self, slot, values):
            self.slot, self.values = slot, values

    class Study:
        objectives = (Objective("dice", "maximize"), Objective("parameters", "minimize"))

    draw = random.Random(0)
    trials = [Done(slot, [draw.randint(0, 9), draw.randint(0, 9)]) for slot in range(60)]

    def is_better(one, other):
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    expected = [t.slot for t in trials if not any(is_better(o.values, t.values) for o in trials)]
    assert [trial.slot for trial in best(Study, trials)] == expected


def test_a_pruner_sees_each_epoch_once_and_stops_the_run(tmp_path):
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0.3, n_warmup_steps=2)
    )
    trial = study.ask()
    watch = PruningWatch(tmp_path, trial)
    assert not watch.look()
    reports = tmp_path / "reports.jsonl"
    reports.write_text('{"epoch": 1, "value": 0.1}\n{"epoch": 2, "value": 0.5}\n{"epoch": 3, "val')
    assert not watch.look(), "before the warm-up, and a half-written line is left for later"
    assert study.get_trials()[0].intermediate_values == {1: 0.1, 2: 0.5}
    reports.write_text('{"epoch": 1, "value": 0.1}\n{"epoch": 2, "value": 0.5}\n{"epoch": 3, "value": 0.2}\n')
    assert watch.look()
    assert (tmp_path / "stop").is_file()
    assert PruningWatch(tmp_path, trial).pruned, "whoever takes the trial over knows"


def test_pruned_trials_are_neither_tested_nor_run_again():
    space = {"x": {"type": "categorical", "choices": [0.1, 0.9]}}
    pruner = {"name": "threshold", "metric": "val/dice", "options": {"lower": 0.5}}
    for _ in range(2):
        main(["sweep", write(GRID | {"space": space, "pruner": pruner})])
    low, high = found()
    assert (low.state, high.state) == ("pruned", "done")
    assert low.trial.intermediate_values == {1: 0.1}
    assert not Path("runs/study/trials/000/test").exists()
    assert len(trained()) == 2


def test_costs_come_from_the_profile_of_the_run():
    objectives = [*TWO[:1], {"metric": "macs", "direction": "minimize"}]
    main(["sweep", write(GRID | {"objectives": objectives, "metrics": ["train_mib"]}), "--trials=1"])
    (outcome,) = found()
    assert outcome.values == pytest.approx([0.1, 1234.0])
    assert outcome.results["train_mib"].values == [5.5]
    commands = [command[1] for command in outcome.trial.user_attrs["commands"]]
    assert commands == ["fit", "test", "profile"]


def test_no_trial_begins_after_the_time_limit(capsys):
    main(["sweep", write(GRID), "--timeout=1e-9"])
    assert "0 of 8 trials have ended; the same command goes on." in capsys.readouterr().out
    main(["sweep", write(GRID | {"time_limit": 1e-9})])
    assert not Path("log").exists()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://me:se@c/ret@host/db", "postgresql+psycopg://me:***@host/db"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?user=me&password=***&x=1"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_passwords_are_never_shown(url, shown):
    assert redact(url) == shown


def test_a_storage_that_cannot_be_used_is_one_line_without_the_password(fails, monkeypatch):
    assert "SQLite may give one trial to several workers" in fails(["sweep", write(GRID), "--storage=sqlite:///a.db"])
    assert "expected a URL" in fails(["sweep", write(GRID), "--storage=nonsense"])

    def refuse(url, *_, **__):
        raise RuntimeError(f"connection to {url} failed: the password 'secret' is wrong\nmore")

    monkeypatch.setattr(optuna.storages, "RDBStorage", refuse)
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", "postgresql://me:secret@nowhere/db")
    line = fails(["sweep", write(GRID)])
    assert "--storage postgresql://me:***@nowhere/db: cannot be reached" in line
    assert "secret" not in line
    Path("url").write_text("postgresql://me:hidden@nowhere/db\n", encoding="utf-8")
    assert storage_url("@url") == "postgresql://me:hidden@nowhere/db"
    with pytest.raises(PocketError, match="the file cannot be read"):
        storage_url("@nothing")


def test_the_password_reaches_no_file_of_the_study(stand_in, monkeypatch):
    """A database that works: the journal file stands for it."""

    def open_elsewhere(url, _, grace_s):
        assert url == "postgresql://me:secret@nowhere/db"
        return open_storage(None, stand_in / "elsewhere", grace_s)

    monkeypatch.setattr("lightning_pocket.sweeps.start.open_storage", open_elsewhere)
    monkeypatch.setenv("POCKET_SWEEP_STORAGE", "postgresql://me:secret@nowhere/db")
    main(["sweep", write(GRID), "--trials=1"])
    assert len(trained()) == 1, "the training did not see it either"
    held = [path for root in ("runs", "elsewhere") for path in Path(root).rglob("*") if path.is_file()]
    assert len(held) > 5
    assert not [path for path in held if b"secret" in path.read_bytes()]
    assert "postgresql://me:***@nowhere/db" in Path("runs/study/study.json").read_text(encoding="utf-8")


def test_a_folder_that_holds_something_else_is_refused(fails):
    Path("full").mkdir()
    Path("full/letter.txt").write_text("dear", encoding="utf-8")
    assert "does not look like a study, it holds letter.txt" in fails(["sweep", write(GRID), "--output=full"])
    assert "no study here" in fails(["sweep", "best", "full"])


def test_help_and_status_import_no_torch():
    main(["sweep", write(GRID), "--trials=1"])
    code = (
        "import sys; from lightning_pocket.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print({'torch', 'scipy'} & set(sys.modules) or 'nothing heavy')"
    )
    for arguments in (["sweep", "--help"], ["sweep", "status", "runs/study"]):
        command = [sys.executable, "-c", code, *arguments]
        result = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
        assert result.stdout.endswith("nothing heavy\n"), result.stdout
