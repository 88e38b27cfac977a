"""Frontiers of folders: which networks are found in them, and one study from training to figures."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from in_process import in_this_process

from lightning_pocket.cli import main
from lightning_pocket.errors import PocketError
from lightning_pocket.frontier.trained import BASE, find_trained
from lightning_pocket.reports.collect import read_run
from lightning_pocket.reports.shrinking import read_shrinking

BASE_WIDTH = "model.init_args.network.init_args.widths.base"
STUDY = {
    "title": "Tiny",
    "configs": ["segment_volumes", "pocket", "no_augmentation"],
    "options": {
        "data.init_args.patch_size": [8, 16, 16],
        "data.init_args.patches_per_epoch": 24,
        "model.init_args.optimizer.init_args.lr": 0.02,
        "model.init_args.network.init_args.depth": 2,
        BASE_WIDTH: 4,
        "trainer.max_epochs": 3,
        "trainer.accelerator": "cpu",
    },
    "space": {
        "sparsity": {"type": "config", "choices": {"none": [], "number": "sparsity_kernel_number"}},
        "trainer.callbacks.alpha_relative": {
            "type": "categorical",
            "choices": [0.05, 0.08],
            "when": {"sparsity": ["number"]},
        },
    },
    "objectives": [
        {"metric": "shrunk/dice", "direction": "maximize"},
        {"metric": "shrunk/macs_formula", "direction": "minimize"},
    ],
    "metrics": ["dice"],
    "shrink": True,
}


def made_run(run, width=8, penalty=None, epochs_left=0):
    """Write what a finished training leaves, as far as it is looked at."""
    callbacks = [{"class_path": "lightning_pocket.callbacks.RunManifest"}]
    if penalty is not None:
        regularizer = {
            "class_path": "lightning_pocket.regularizers.KernelSize",
            "init_args": {"complexity": "multiply_adds"},
        }
        own = {"regularizer": regularizer, "alpha": None, "alpha_relative": penalty, "solver": "subgradient"}
        path = "lightning_pocket.callbacks.StructuredSparsity"
        callbacks.append({"class_path": path, "init_args": own | {"tau": 0.001}})
    network = {"init_args": {"widths": {"base": width}}}
    settings = {"trainer": {"callbacks": callbacks}, "model": {"init_args": {"network": network}}}
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").write_text("weights")
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    (run / "manifest.json").write_text(json.dumps({"finished": not epochs_left}), encoding="utf-8")


def made_study(folder, space):
    content = {"title": "t", "configs": ["pocket"], "space": space}
    content["objectives"] = [{"metric": "dice", "direction": "maximize"}]
    folder.mkdir()
    (folder / "sweep.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def test_networks_of_a_study_are_named_by_what_makes_them_differ(tmp_path):
    made_study(tmp_path / "widths", {BASE_WIDTH: {"type": "categorical", "choices": [4, 8]}})
    made_run(tmp_path / "widths" / "trials" / "000", 4)
    made_run(tmp_path / "widths" / "trials" / "001", 8)
    made_run(tmp_path / "widths" / "trials" / "002", 16, epochs_left=3)
    found, left_out = find_trained([tmp_path / "widths"])
    assert [(entry.kind, entry.label) for entry in found] == [("chosen base", "4"), ("chosen base", "8")]
    assert left_out == [f"{tmp_path / 'widths/trials/002'}: was not trained to its end"]


def test_what_a_penalty_has_changed_counts_once_it_is_shrunk(tmp_path):
    space = {"kind": {"type": "config", "choices": {"none": [], "size": "sparsity_kernel_size"}}}
    made_study(tmp_path / "study", space)
    trials = tmp_path / "study" / "trials"
    made_run(trials / "000")
    made_run(trials / "001", penalty=0.03)
    found, left_out = find_trained([tmp_path / "study"])
    assert [(entry.kind, entry.label) for entry in found] == [(BASE, "")]
    assert left_out == [
        f"{trials / '001'}: has zeros that were not removed; `pocket shrink {trials / '001'} --output "
        f"{trials / '001.shrunk'}` does"
    ]
    layer = {"name": "a", "kernels": [8, 3], "sizes": {"1x1": 3}, "macs_formula": [5, 3]}
    record = {"parameters": [7, 4], "macs": [9, 5], "macs_formula": [9, 4], "layers": [layer]}
    (trials / "001.shrunk").mkdir()
    (trials / "001.shrunk" / "shrink.json").write_text(json.dumps(record | {"milliseconds": {"plain": [2, 1]}}))
    found, left_out = find_trained([tmp_path / "study"])
    assert not left_out
    assert (found[1].kind, found[1].label) == ("learned sizes by MACs, subgradient", "0.03, tau 0.001")
    assert found[1].networks == [trials / "001.shrunk"]
    assert found[1].shrinkings[0].milliseconds == (2, 1)
    with pytest.raises(PocketError, match=r"001\.shrunk"):
        found[1].score("dice")


def test_a_shrunk_network_may_be_named_itself(tmp_path):
    made_run(tmp_path / "run", penalty=0.03)
    small = tmp_path / "other_name"
    small.mkdir()
    layer = {"name": "a", "kernels": [8, 3], "sizes": {"1x1": 3}, "macs_formula": [5, 3]}
    record = {"parameters": [7, 4], "macs": [9, 5], "macs_formula": [9, 4], "layers": [layer]}
    record["milliseconds"] = {"plain": [2, 1]}
    record["shrunk_from"] = {"checkpoint": str(tmp_path / "run" / "checkpoints" / "last.ckpt")}
    (small / "shrink.json").write_text(json.dumps(record))
    (small / "manifest.json").write_text("{}")
    (entry,), left_out = find_trained([small])
    assert not left_out
    assert (entry.kind, entry.label) == ("learned sizes by MACs, subgradient", "0.03, tau 0.001")
    assert (entry.runs, entry.networks) == ((tmp_path / "run",), [small])
    assert entry.shrinkings[0].parameters == (7, 4)
    made_run(tmp_path / "free")
    record["shrunk_from"] = {"checkpoint": str(tmp_path / "free" / "checkpoints" / "last.ckpt")}
    (small / "shrink.json").write_text(json.dumps(record))
    assert "trained without a penalty" in find_trained([small])[1][0]
    shutil.rmtree(tmp_path / "free")
    assert "last.ckpt, which is not there" in find_trained([small])[1][0]


def test_a_folder_of_something_else_is_refused(tmp_path, fails):
    assert "holds neither a study nor a run" in fails(["frontier", str(tmp_path), "--output=out"])
    assert "--output: is missing" in fails(["frontier", str(tmp_path)])
    assert "--rounds -1: expected 0 or more" in fails(["frontier", str(tmp_path), "--output=out", "--rounds=-1"])
    assert "--margin -0.1: expected 0 or more" in fails(["frontier", str(tmp_path), "--output=out", "--margin=-0.1"])
    assert "no shipped one of this name" in fails(["frontier", str(tmp_path), "--output=out", "--published=x"])


@pytest.mark.e2e
def test_from_training_to_figures(blobs_cache, trained, tmp_path, monkeypatch, capsys, fails):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    with in_this_process():
        main(["sweep", "tiny.yaml", f"--cache={blobs_cache}"])
    trials = Path("runs/tiny/trials")
    saved = []
    for trial in ("000", "001", "002"):
        before, after = read_run(trials / trial), read_run(trials / f"{trial}.shrunk")
        assert after.mean("dice") == pytest.approx(before.mean("dice"), abs=1e-4), "the same function"
        shape = read_shrinking(trials / f"{trial}.shrunk")
        assert shape.parameters == (before.parameters, after.parameters)
        saved.append(shape.macs_formula[1])
    assert saved[0] > saved[1] >= saved[2], "the stronger, the smaller"
    shutil.copytree(trained, "wide")
    main(["test", "--run_dir=wide", "--ckpt_path=last", "--trainer.enable_progress_bar=false"])
    capsys.readouterr()
    main(["frontier", "runs/tiny", "wide", "--output=out", "--rounds=1"])
    assert "learned widths" in capsys.readouterr().out
    with Path("out/frontier.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows] == [BASE, "learned widths", "learned widths", BASE]
    assert [float(row["macs_formula"]) for row in rows[:3]] == saved
    assert all(float(row["milliseconds"]) > 0 for row in rows)
    assert float(rows[1]["macs_ratio"]) == float(rows[1]["macs"]) / float(rows[0]["macs"]) < 1
    with Path("out/correlation.csv").open(encoding="utf-8", newline="") as file:
        assert {row["alpha"] for row in csv.DictReader(file)} == {"0.05", "0.08"}
    drawn = {path.stem for path in Path("out/figures").iterdir()}
    expected = {"widths_learned_widths", "correlation_learned_widths", "correlation_alpha", "kernels_learned_widths"}
    costs = ("macs", "macs_formula", "parameters", "milliseconds")
    assert drawn == expected | {f"frontier_{cost}" for cost in costs}
    shutil.rmtree("wide/test")
    assert "it was not tested" in fails(["frontier", "runs/tiny", "wide", "--output=out"])
