"""`pocket shrink` from a training to everything that a trained network is used for."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from compact_families import kill

from lightning_pocket.cli import main
from lightning_pocket.compact import CompactNetwork, load_compact
from lightning_pocket.compact.verify import compare
from lightning_pocket.reports.collect import read_run
from lightning_pocket.tasks import load_task
from lightning_pocket.tasks.loading import read_checkpoint


def spoiled(trained: Path, folder: Path, share: float = 0.3) -> Path:
    """Return a copy of a run in which some kernels are dead and others smaller."""
    run = Path(shutil.copytree(trained, folder / "spoiled"))
    checkpoint = run / "checkpoints" / "last.ckpt"
    network = load_task(checkpoint).network
    torch.manual_seed(0)
    kill(network, share, cropped=0.3)
    content = read_checkpoint(checkpoint)
    content["state_dict"] |= {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(content, checkpoint)
    return run


NONLINEAR = ["--model.init_args.network.init_args.layers.expansion.mode=nonlinear", "--trainer.max_epochs=1"]


def label(folder: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "case_01.nii.gz")))


def scores(run: Path) -> list[dict[str, str]]:
    with (run / "test" / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.e2e
def test_what_is_shrunk_is_used_like_a_run(
    trained: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, small = spoiled(trained, tmp_path), tmp_path / "small"
    main(["shrink", str(run), "--output", str(small), "--merge", "never"])
    said = capsys.readouterr().out
    assert "written: " in said
    assert " in float64, " in said
    before, after = load_task(run / "checkpoints" / "last.ckpt").network, load_compact(small)
    (difference,) = compare(before, after, 1, [(8, 16, 16)])
    assert difference.float32 < 1e-5
    record = json.loads((small / "shrink.json").read_text())
    assert record["parameters"] == [sum(p.numel() for p in network.parameters()) for network in (before, after)]
    assert record["parameters"][1] < 0.7 * record["parameters"][0]
    assert record["macs_formula"][1] < record["macs"][1] < record["macs"][0] == record["macs_formula"][0]
    assert all(found["float64"] < 1e-12 for found in record["compared"])
    assert yaml.safe_load((small / "config.yaml").read_text())["run_dir"] == str(small)
    assert read_run(small).parameters == record["parameters"][1]

    moved = small.rename(tmp_path / "moved")  # nothing in it depends on where it lies
    monkeypatch.chdir(tmp_path)
    for name, folder in (("one", run), ("other", moved)):
        main(["infer", str(folder), str(image), "--output", str(tmp_path / name)])
        main(["test", f"--run_dir={folder}"])
    assert np.array_equal(label(tmp_path / "one"), label(tmp_path / "other"))
    assert label(tmp_path / "one").any()
    for one, other in zip(scores(run), scores(moved), strict=True):
        assert one["subject"] == other["subject"]
        assert float(one["dice"]) == pytest.approx(float(other["dice"]), abs=1e-4)
    main(["report", str(moved)])
    assert (moved / "report.html").is_file()
    capsys.readouterr()
    main(["profile", str(run), str(moved)])
    assert f"{record['parameters'][1]:,}" in capsys.readouterr().out


@pytest.mark.e2e
def test_a_shrunk_network_is_trained_further(
    trained: Path, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    small = tmp_path / "small"
    main(["shrink", str(spoiled(trained, tmp_path)), "--output", str(small)])
    network = "--model.init_args.network"
    own = [option for option in options if network not in option and option != "--config=pocket"]
    own += [
        f"{network}=lightning_pocket.compact.CompactNetwork",
        f"{network}.init_args.architecture={small}",
        "--trainer.max_epochs=1",
    ]
    capsys.readouterr()
    main(["fit", *own])
    assert f"tensors from {small / 'weights.pt'}" in capsys.readouterr().out
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    before = load_compact(small)
    shutil.rmtree(small)  # a checkpoint needs no other file
    tuned = load_task(checkpoint).network
    assert isinstance(tuned, CompactNetwork)
    assert tuned.architecture == before.architecture
    changed = [not torch.equal(a, b) for a, b in zip(tuned.parameters(), before.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    content = torch.load(checkpoint, weights_only=True)
    assert content["hyper_parameters"]["network"]["init_args"]["architecture"]["steps"]
    assert str(small) in (tmp_path / "run" / "config.yaml").read_text()
    assert "is already reduced" in fails(["shrink", str(checkpoint), "--output", str(tmp_path / "again")])


def test_a_checkpoint_alone_is_shrunk(trained: Path, tmp_path: Path, image: Path) -> None:
    file = tmp_path / "alone.ckpt"
    shutil.copy(trained / "checkpoints" / "best.ckpt", file)
    main(["shrink", str(file), "--output", str(tmp_path / "small"), "--merge", "always"])
    names = sorted(path.name for path in (tmp_path / "small").iterdir())
    assert names == ["architecture.json", "checkpoints", "shrink.json", "weights.pt"]
    main(["infer", str(tmp_path / "small"), str(image), "--output", str(tmp_path / "out"), "--speed", "plain"])
    main(["infer", str(file), str(image), "--output", str(tmp_path / "whole"), "--speed", "plain"])
    assert np.array_equal(label(tmp_path / "out"), label(tmp_path / "whole"))


def test_tau_is_told_and_recorded(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["shrink", str(trained), "--output", str(tmp_path / "small"), "--tau", "0.3", "--merge", "never"])
    said = capsys.readouterr().out
    assert "tau 0.3 itself changes outputs by up to " in said
    record = json.loads((tmp_path / "small" / "shrink.json").read_text())
    assert record["tau"] == 0.3
    assert record["parameters"][1] < record["parameters"][0]
    assert max(found["float64"] for found in record["compared"]) < 1e-12


@pytest.mark.e2e
def test_expanded_layers_are_contracted_first(
    trained: Path, tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str], fails: Callable[..., str]
) -> None:
    run, small = tmp_path / "run", tmp_path / "run.shrunk"
    main(["fit", *options, "--config=expanded_cl", "--config=sparsity_kernel_number"])
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = read_checkpoint(checkpoint)
    last = [name for name in content["state_dict"] if name.startswith("network.encoder.1.0.0.")][-1]
    factor = content["state_dict"][last.rpartition(".")[0] + ".weight"]
    factor[:2] = 0  # rows of the last factor: kernels of the layer
    torch.save(content, checkpoint)
    capsys.readouterr()
    main(["shrink", str(run), "--output", str(small), "--merge", "never"])
    assert "contracted " in capsys.readouterr().out
    record = json.loads((small / "shrink.json").read_text())
    plain = sum(p.numel() for p in load_task(trained / "checkpoints" / "last.ckpt").network.parameters())
    assert record["parameters"][0] == plain, "before is what infer and test would use"
    (layer,) = [layer for layer in record["layers"] if layer["name"] == "encoder.1.0.0"]
    assert layer["kernels"][1] <= layer["kernels"][0] - 2
    assert all(found["float64"] < 1e-12 for found in record["compared"])
    for folder in (run, small):
        main(["test", f"--run_dir={folder}", "--ckpt_path=last"])
    for one, other in zip(scores(run), scores(small), strict=True):
        assert float(one["dice"]) == pytest.approx(float(other["dice"]), abs=1e-4)
    main(["frontier", str(run), "--output", str(tmp_path / "drawn"), "--rounds=0"])
    assert (tmp_path / "drawn" / "figures" / "kernels_learned_widths.svg").is_file()
    main(["fit", *options, f"--run_dir={tmp_path / 'n'}", "--config=expanded_cl", *NONLINEAR])
    assert "mode is nonlinear" in fails(["shrink", str(tmp_path / "n"), "--output", str(tmp_path / "no")])


def test_what_cannot_be_shrunk_is_told_in_one_line(trained: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    small = str(tmp_path / "small")
    assert "output: is missing" in fails(["shrink", str(trained)])
    assert "tau: found -1.0, expected 0 or more" in fails(["shrink", str(trained), "--output", small, "--tau", "-1"])
    assert "no such checkpoint" in fails(["shrink", str(tmp_path / "nowhere"), "--output", small])
    assert "has no kernel left" in fails(["shrink", str(trained), "--output", small, "--tau", "1e9"])
    if not torch.cuda.is_available():
        assert "device: torch finds no GPU" in fails(["shrink", str(trained), "--output", small, "--device", "cuda"])
    (tmp_path / "file").write_text("")
    assert "is a file" in fails(["shrink", str(trained), "--output", str(tmp_path / "file")])
    assert "is not empty, and was not written" in fails(["shrink", str(trained), "--output", str(trained)])
    assert not (tmp_path / "small").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_reduction_that_differs_is_not_written(
    trained: Path, tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lightning_pocket.compact.reduce as module

    rebuild = module.rebuild

    def wrong(*arguments: Any) -> Any:
        found = rebuild(*arguments)
        name = next(name for name, tensor in found.state.items() if tensor.ndim == 5)
        found.state[name] = found.state[name] * (1 + 1e-6)
        return found

    monkeypatch.setattr(module, "rebuild", wrong)
    message = fails(["shrink", str(trained), "--output", str(tmp_path / "small")])
    assert "its reduction differs by " in message
    assert "Nothing was written" in message
    assert not (tmp_path / "small").exists()


def test_what_was_shrunk_is_replaced_only_when_asked(trained: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    arguments = ["shrink", str(trained), "--output", str(tmp_path / "small"), "--merge", "never"]
    main(arguments)
    before = (tmp_path / "small" / "shrink.json").read_text()
    assert "Replace it with --fresh" in fails(arguments)
    main([*arguments, "--fresh", "--tau", "0.3"])
    assert (tmp_path / "small" / "shrink.json").read_text() != before
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
