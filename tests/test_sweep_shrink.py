"""Studies that shrink what they have trained, and parameters that set the same option."""

import csv
from pathlib import Path

import pytest
from sweep_stand_in import GRID
from sweep_studies import found, write

from lightning_pocket.cli import main
from lightning_pocket.sweeps.read import read_sweep
from lightning_pocket.sweeps.runs import TrialRuns

pytestmark = pytest.mark.usefixtures("stand_in")

SHRUNK = GRID | {
    "space": {"x": {"type": "categorical", "choices": [0.1, 0.2]}},
    "objectives": [
        {"metric": "shrunk/dice", "direction": "maximize"},
        {"metric": "shrunk/macs_formula", "direction": "minimize"},
    ],
    "metrics": ["dice", "shrunk/macs", "shrunk/parameters", "shrunk/time_ratio"],
    "shrink": True,
}


def lines():
    return [line.rpartition(" ")[0] for line in Path("log").read_text(encoding="utf-8").splitlines()]


def test_each_network_is_shrunk_and_what_is_left_is_tested():
    main(["sweep", write(SHRUNK)])
    first, second = found()
    assert first.values == [pytest.approx(0.1), 300]
    assert second.values == [pytest.approx(0.2), 300]
    values = {name: entry.mean for name, entry in first.results.items()}
    assert values["shrunk/macs"] == 400
    assert values["shrunk/parameters"] == 4
    assert values["shrunk/time_ratio"] == 1.0 / 4.0, "the faster way after, of the faster way before"
    assert values["parameters"] == 7
    with Path("runs/study/trials.csv").open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["shrunk/macs_formula"]) == 300
    steps = [command.split()[1] for command in row["commands"].split(" && ")]
    assert steps == ["fit", "test", "shrink", "test"]


def test_what_is_trained_already_is_only_shrunk():
    main(["sweep", write(GRID | {"space": SHRUNK["space"]})])
    Path("runs/study/study.journal").unlink()
    Path("log").unlink()
    runs = TrialRuns(read_sweep(Path(write(SHRUNK))), Path("runs/study"), 0, {"x": 0.1})
    assert not runs.is_done()
    main(["sweep", "study.yaml"])
    assert runs.is_done()
    assert lines() == ["shrunk 000.shrunk", "shrunk 001.shrunk"]
    Path("runs/study/study.journal").unlink()
    Path("runs/study/trials/001/checkpoints/last.ckpt").write_text("other weights", encoding="utf-8")
    main(["sweep", write(SHRUNK)])
    assert lines() == ["shrunk 000.shrunk", "shrunk 001.shrunk", "shrunk 001.shrunk"], "as it is of other weights"


def test_the_page_has_the_front_of_shrunk_networks():
    main(["sweep", write(SHRUNK)])
    page = Path("runs/study/index.html").read_text(encoding="utf-8")
    assert "MACs (10), shrunk" in page
    assert "Dice, shrunk" in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shrink": False}, "study.yaml: shrunk/dice is of shrunk networks, which the study does not make"),
        ({"metrics": ["shrunk/size"]}, "no metric is called 'shrunk/size'"),
        ({"metrics": ["shrunk/accuracy"]}, "the runs have no 'shrunk/accuracy'; a segmentation has dice"),
        ({"shrink": 1}, "shrink is 1, expected bool"),
    ],
)
def test_what_does_not_go_with_shrinking_is_refused(fails, change, said):
    assert said in fails(["sweep", write(SHRUNK | change)])


def test_parameters_that_never_count_together_set_the_same_option(fails):
    space = {
        "kind": {"type": "config", "choices": {"one": [], "two": "pocket"}},
        "one.x": {"type": "categorical", "choices": [0.1, 0.2], "option": "x", "when": {"kind": ["one"]}},
        "two.x": {"type": "categorical", "choices": [0.3], "option": "x", "when": {"kind": ["two"]}},
    }
    sweep = read_sweep(Path(write(GRID | {"space": space})))
    assert [sweep.space.options(point) for point in sweep.points()] == [{"x": 0.1}, {"x": 0.2}, {"x": 0.3}]
    assert [sweep.space.show(point) for point in sweep.points()][-1] == "kind=two, two.x=0.3"
    assert "--x: is set for each trial" in fails(["sweep", "study.yaml", "--", "--x=3"])
    assert "x is in options and in space" in fails(["sweep", write(GRID | {"space": space, "options": {"x": 1}})])
