"""Studies that search: samplers, several objectives, pruning, costs and limits."""

import random
from pathlib import Path

import optuna
import pytest
import yaml
from sweep_stand_in import GRID
from sweep_studies import TWO, found, trained, write

from lightning_pocket.cli import main
from lightning_pocket.storage import write_json, write_text
from lightning_pocket.sweeps.claims import Claims
from lightning_pocket.sweeps.definition import Objective
from lightning_pocket.sweeps.importance import importance
from lightning_pocket.sweeps.measures import measure_trial
from lightning_pocket.sweeps.outcome import best, outcomes
from lightning_pocket.sweeps.pruning import PruningWatch
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.samplers import Sampler
from lightning_pocket.sweeps.study import SweepStudy

pytestmark = pytest.mark.usefixtures("stand_in")


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


@pytest.mark.parametrize("objectives", [1, 2])
@pytest.mark.parametrize("name", ["gp", "tpe", "nsga2"])
def test_samplers_avoid_what_cannot_be(name, objectives, stand_in):
    """A choice of four that always runs out of memory, and looks best: drawn less than by chance in later trials."""
    if name == "nsga2" and objectives == 1:
        pytest.skip("is for several objectives")
    space = {"x": {"type": "categorical", "choices": [1, 2, 3, 99]}, "y": {"type": "float", "low": 0, "high": 1}}
    options = {"population_size": 6} if name == "nsga2" else {"n_startup_trials": 6}
    content = GRID | {"space": space, "infeasible_on_out_of_memory": True, "trials": 24}
    content |= {"sampler": {"name": name, "options": options}, "objectives": TWO[:objectives]}
    sweep = read_sweep(Path(write(content)))
    study = SweepStudy(sweep, "study", stand_in, optuna.storages.InMemoryStorage())
    study.begin({}, {}, [])
    claims, drawn = Claims(study), []
    while (claimed := claims.claim()) is not None:
        drawn.append(claimed.point["x"])
        if drawn[-1] == 99:
            claims.exclude(claimed, "out of memory")
        else:
            claims.complete(claimed, [drawn[-1] + claimed.point["y"], 7.0][:objectives])
    assert 99 in drawn[:12], "or there is nothing to learn from"
    later = drawn[12:].count(99)
    assert later == 0 if name == "gp" else later <= 3, drawn
    made = [outcome for outcome in outcomes(study) if outcome.state == "infeasible"]
    assert len(made) == drawn.count(99)
    assert {outcome.values for outcome in made} == {None}
    assert best(sweep, outcomes(study))[0].point["x"] != 99
    assert importance(study.study, 0).trials in (0, len(drawn) - len(made))


def test_the_points_of_qmc_are_one_sequence():
    """Scrambled by Owen's method, each of the 16 strips of the unit interval has one of the 16 points."""
    sampler = Sampler("qmc", 3, {"scramble": True})
    study = optuna.create_study()
    drawn = []
    for number in range(17):
        study.sampler = sampler.make(number)
        trial = study.ask()
        drawn.append([trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)])
        study.tell(trial, 0.0)
    for axis in (0, 1):  # the first trial is random: it tells Optuna of the parameters
        assert sorted(int(16 * point[axis]) for point in drawn[1:]) == list(range(16))


def test_every_seed_from_0_makes_a_sampler():
    for name in ("grid", "random", "tpe", "qmc"):
        assert Sampler(name, 2**40).make(7) is not None


def test_validation_scores_are_those_of_the_epoch_whose_weights_are_tested(tmp_path):
    """Two folds whose best epochs differ, and another metric whose best value is in a third one."""
    logged = {"fold_0": [(0.5, 0.9), (0.8, 0.4), (0.7, 0.1)], "fold_1": [(0.6, 0.3), (0.2, 0.2), (0.9, 0.8)]}
    for (name, values), epoch in zip(logged.items(), (2, 3), strict=True):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "manifest.json", {"parameters": 7, "finished": True, "best_epoch": epoch})
        rows = [f"{index},{index},{dice},{loss}" for index, (dice, loss) in enumerate(values)]
        write_text(tmp_path / name / "metrics.csv", "\n".join(["epoch,step,val/dice,val/loss", *rows, ""]))
    runs, wanted = [tmp_path / name for name in logged], ["val/dice", "val/loss"]
    best, last = (measure_trial(runs, wanted, [], checkpoint) for checkpoint in ("best", "last"))
    assert [best[metric].values for metric in wanted] == [[0.8, 0.9], [0.4, 0.8]]
    assert [last[metric].values for metric in wanted] == [[0.7, 0.9], [0.1, 0.8]]


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


def test_a_trial_that_another_worker_has_taken_over_is_neither_reported_nor_pruned(tmp_path):
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=0.3))
    trial = study.ask()
    watch = PruningWatch(tmp_path, trial)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    (tmp_path / "reports.jsonl").write_text('{"epoch": 1, "value": 0.1}\n')
    assert not watch.look()
    assert not (tmp_path / "stop").exists()


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


def test_a_verdict_that_a_killed_worker_could_not_tell_is_told_by_the_next(stand_in, capsys):
    """The run is trained to its end and tested; yet the pruner has decided."""
    pruner = {"name": "threshold", "metric": "val/dice", "options": {"lower": 0.0}}
    main(["sweep", write(GRID | {"pruner": pruner}), "--trials=1"])
    (done,) = found()
    assert done.state == "done"
    Path("runs/study/study.journal").unlink()  # as it was before anybody was told
    write_text(stand_in / "runs/study/pruning/000/stop", "pruned after epoch 1\n")
    main(["sweep", write(GRID | {"pruner": pruner}), "--trials=1"])
    (pruned,) = found()
    assert pruned.state == "pruned"
    assert pruned.trial.intermediate_values == done.trial.intermediate_values == {1: 0.1}
    assert len(trained()) == 1
    assert "trial 0: pruned" in capsys.readouterr().out


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
