"""Fine-tuning: first weights from another run."""

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from interruption import kill_after

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import Expansion, LayerFactory, WidthSchedule
from lightning_pocket.networks import HRNet, Network, UNet
from lightning_pocket.storage import sha256
from lightning_pocket.tasks import SegmentationTask, start_from
from lightning_pocket.tasks.start import head_layers

BLOBS = ["background", "shell", "core"]
THIN = WidthSchedule(base=4, doublings=0)


def task(classes=BLOBS, channels=("MRI",), network=UNet, seed=0, **settings):
    torch.manual_seed(seed)
    data = {"channels": list(channels), "classes": list(classes), "patch_size": [8, 8, 8]}
    return SegmentationTask(network(len(channels), len(classes), depth=2, widths=THIN, **settings), data)


@pytest.fixture
def source(tmp_path):
    """A checkpoint with weights that no seed of a test gives, and those weights."""
    trained = task(seed=99)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    spec = {"class_path": "lightning_pocket.networks.UNet"}
    content = {"channels": ["MRI"], "classes": BLOBS}
    torch.save({"state_dict": trained.state_dict(), "hyper_parameters": {"network": spec, "dataset": content}}, path)
    return path, trained.network.state_dict()


def check(target, before, saved, start, new):
    """Kept tensors are those of the checkpoint, bit for bit; the new ones are left as they were."""
    after = target.network.state_dict()
    assert set(start.new) == new
    assert set(start.kept) == set(after) - new
    assert all(torch.equal(after[name], saved[name]) for name in start.kept)
    assert all(torch.equal(after[name], before[name]) for name in new)
    assert not any(torch.equal(after[name], saved[name]) for name in new if saved[name].shape == after[name].shape)


def start(target, path):
    before = {name: tensor.clone() for name, tensor in target.network.state_dict().items()}
    return before, start_from(target, path)


HEAD = {"heads.0.weight", "heads.0.bias"}
FIRST = {"encoder.0.0.0.weight", "encoder.0.0.0.bias"}


@pytest.mark.parametrize(
    ("classes", "channels", "new"),
    [
        (BLOBS, ["MRI"], set()),
        (["background", "ball"], ["MRI"], HEAD),
        (["background", "core", "shell"], ["MRI"], HEAD),  # copied, the head would swap the classes
        (BLOBS, ["MRI", "CT"], FIRST),
        (["background", "ball"], ["MRI", "CT"], HEAD | FIRST),
    ],
)
def test_layers_that_fit_are_kept(source, classes, channels, new):
    path, saved = source
    target = task(classes, channels)
    before, found = start(target, path)
    check(target, before, saved, found, new)
    parameters = dict(target.network.named_parameters())
    kept = sum(parameters[name].numel() for name in parameters if name not in new)
    assert found.parameters == (kept, sum(p.numel() for p in parameters.values()))
    assert found.record["sha256"] == sha256(path)


def test_what_is_new_is_said_with_both_shapes(source):
    text = str(start_from(task(["background", "ball"], ["MRI", "CT"]), source[0]))
    assert "kept 72 of 76 tensors" in text
    assert "classes: background, shell, core -> background, ball; the head is new" in text
    assert "heads.0.weight: 3x4x1x1x1 -> 2x4x1x1x1, other classes" in text
    assert "encoder.0.0.0.weight: 4x1x3x3x3 -> 4x2x3x3x3" in text
    assert "encoder.0.0.0.bias: 4, its layer is new" in text


def test_a_long_list_is_cut(source):
    deeper = task(units := BLOBS, deep_supervision=1, downsample="strided_conv")
    assert len(str(start_from(deeper, source[0])).splitlines()) == 7
    wider = SegmentationTask(
        UNet(1, 3, depth=2, widths=WidthSchedule(base=4, doublings="all")),
        {"channels": ["MRI"], "classes": units, "patch_size": [8, 8, 8]},
    )
    lines = str(start_from(wider, source[0])).splitlines()
    assert len(lines) == 14
    assert lines[-1].strip() == f"and {int(lines[-1].split()[1])} more"


def test_a_run_folder_stands_for_its_last_checkpoint(source):
    path, saved = source
    target = task()
    start_from(target, path.parents[1])
    assert all(torch.equal(value, saved[name]) for name, value in target.network.state_dict().items())


def test_nothing_in_common_is_refused(source):
    with pytest.raises(PocketError, match="weights of a UNet of other settings, none of which fit this HRNet"):
        start_from(task(network=HRNet), source[0])
    wide = SegmentationTask(
        UNet(1, 3, depth=2, widths=WidthSchedule(base=6)), {"channels": [""], "classes": BLOBS, "patch_size": [8] * 3}
    )
    with pytest.raises(PocketError, match="weights of a UNet of other settings, none of which fit this UNet"):
        start_from(wide, source[0])


@pytest.mark.parametrize("content", [None, b"text"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "x.ckpt"
    if content:
        path.write_bytes(content)
    with pytest.raises(PocketError, match="not a checkpoint" if content else "no such checkpoint"):
        start_from(task(), path)


class Unnamed(Network):
    """A network whose head is not called so."""

    def __init__(self):
        super().__init__(1, 3, 2, (1, 1))
        self.first = torch.nn.Conv2d(1, 3, 3)
        self.last = torch.nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.last(self.first(x))


def test_heads_are_found():
    assert head_layers(UNet(1, 3, depth=3, widths=THIN, deep_supervision=2)) == {"heads.0", "heads.1", "heads.2"}
    assert head_layers(HRNet(1, 4, depth=2, widths=WidthSchedule(base=4, doublings=0))) == {"heads.0"}
    assert head_layers(Unnamed()) == {"last"}
    expanded = LayerFactory(expansion=Expansion("cl", select=["heads"]))
    assert head_layers(UNet(1, 3, depth=1, widths=THIN, layers=expanded)) == {"heads.0"}


# Through the command line.


def variant(blobs, folder, name):
    """The blobs with one class for shell and core, or with a second channel that is the first with less noise."""
    raw = shutil.copytree(blobs, folder / f"raw_{name}")
    declaration = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    for path in sorted((raw / ("labelsTr" if name == "classes" else "imagesTr")).iterdir()):
        image = sitk.ReadImage(path)
        if name == "classes":
            array = (sitk.GetArrayFromImage(image) > 0).astype(np.uint8)
            changed = sitk.GetImageFromArray(array)
        else:
            changed = sitk.JoinSeries([image, sitk.DiscreteGaussian(image, 0.5)])
        sitk.WriteImage(changed, path)
    if name == "classes":
        declaration["labels"] = {"0": "background", "1": "ball"}
    else:
        declaration["modality"] = {"0": "MRI", "1": "smooth"}
    (raw / "dataset.json").write_text(json.dumps(declaration), encoding="utf-8")
    prepare(str(raw), output=str(folder / name), workers=1)
    return folder / name


@pytest.fixture(scope="module")
def pretrained(blobs_cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("pretrained") / "run"
    main(["fit", *settings(blobs_cache, run), "--config=ema", "--trainer.max_epochs=8"])
    return run


def settings(cache, run):
    return [
        "--config=segment_volumes",
        "--config=pocket",
        f"--run_dir={run}",
        f"--data.init_args.cache={cache}",
        "--data.init_args.patch_size=[8,16,16]",
        "--data.init_args.patches_per_epoch=24",
        "--model.init_args.network.init_args.depth=2",
        "--model.init_args.network.init_args.widths.base=4",
        "--model.init_args.optimizer.init_args.lr=0.005",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.max_epochs=1",
    ]


def losses(run):
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


@pytest.mark.e2e
@pytest.mark.parametrize("name", ["same", "classes", "channels"])
def test_a_fine_tuned_run_begins_better(pretrained, blobs, blobs_cache, tmp_path, name, capsys):
    cache = blobs_cache if name == "same" else variant(blobs, tmp_path, name)
    arguments = ["fit", *settings(cache, tmp_path / "scratch")]
    main(arguments)
    tuned = tmp_path / "tuned"
    capsys.readouterr()
    main([*arguments, f"--run_dir={tuned}", f"--start_from={pretrained}"])
    assert f"start from {pretrained}/checkpoints/last.ckpt: kept " in capsys.readouterr().out
    assert losses(tuned)[0] < losses(tmp_path / "scratch")[0] - 0.03
    recorded = json.loads((tuned / "manifest.json").read_text(encoding="utf-8"))["start_from"]
    assert recorded["sha256"] == sha256(pretrained / "checkpoints" / "last.ckpt")
    if name == "same":
        main(["test", f"--run_dir={tuned}"])
    assert "Please add the following callbacks" not in capsys.readouterr().err


@pytest.mark.e2e
def test_a_run_that_continues_does_not_start_from_elsewhere_again(pretrained, blobs_cache, tmp_path, fails, capsys):
    copied = shutil.copytree(pretrained, tmp_path / "copied")
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = ["fit", *settings(blobs_cache, run), f"--start_from={copied}", "--trainer.max_epochs=2"]
    main([*arguments, f"--run_dir={whole}"])

    kill_after(arguments)
    assert yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["start_from"] == str(copied)
    assert "start_from: " in fails([*arguments, f"--start_from={pretrained}"])
    digest = sha256(copied / "checkpoints" / "last.ckpt")
    shutil.rmtree(copied)
    capsys.readouterr()
    main(arguments)
    assert "continuing from" in capsys.readouterr().out
    expected, found = (torch.load(r / "checkpoints" / "last.ckpt", weights_only=True) for r in (whole, run))
    assert all(torch.equal(expected["state_dict"][n], value) for n, value in found["state_dict"].items())
    assert found["callbacks"]["StartFrom"]["sha256"] == digest
    assert "no such checkpoint" in fails([*arguments, f"--run_dir={tmp_path / 'new'}"])
    assert not (tmp_path / "new").exists()


@pytest.mark.e2e
def test_the_average_of_a_run_is_what_another_starts_from(pretrained, blobs_cache, tmp_path):
    run = tmp_path / "run"
    frozen = "--model.init_args.optimizer.init_args.lr=0"
    main(["fit", *settings(blobs_cache, run), f"--start_from={pretrained}", frozen])
    saved = torch.load(pretrained / "checkpoints" / "last.ckpt", weights_only=True)
    found = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    name = "network.heads.0.weight"
    assert torch.equal(found[name], saved["state_dict"][name])
    assert not torch.equal(found[name], saved["callbacks"]["WeightAverage"]["trained"][name])


@pytest.mark.e2e
def test_a_run_may_start_over_from_its_own_weights(pretrained, blobs_cache, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    digest = sha256(run / "checkpoints" / "last.ckpt")
    main(["fit", *settings(blobs_cache, run), f"--start_from={run}", "--fresh"])
    found = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["callbacks"]["StartFrom"]["sha256"] == digest


@pytest.mark.e2e
def test_two_sources_of_weights_are_refused(pretrained, blobs_cache, tmp_path, fails):
    last = pretrained / "checkpoints" / "last.ckpt"
    message = fails(["fit", *settings(blobs_cache, tmp_path / "run"), f"--start_from={last}", f"--ckpt_path={last}"])
    assert "--start_from and --ckpt_path both name first weights" in message
