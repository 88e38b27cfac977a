"""Voxels of the class "ignore" count nowhere."""

import csv
import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from conftest import SIZE
from scipy.ndimage import map_coordinates

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data.augment import RandomAxisFlip, to_subject
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.checks import inspect, parse_classes
from lightning_pocket.data.grid import Grid
from lightning_pocket.data.images import Volume
from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.layouts.base import ignored_value, parse_labels
from lightning_pocket.data.patches import PatchDataset, from_subject
from lightning_pocket.data.preprocess import Preprocessing, apply, resolve
from lightning_pocket.data.queue import QueuePatches, QueueSettings
from lightning_pocket.data.sampling import ForegroundSampler
from lightning_pocket.data.volumes import VolumeDataModule
from lightning_pocket.errors import PocketError
from lightning_pocket.losses import DiceCrossEntropy, L2Dice, deep_supervision_loss, downsample_label
from lightning_pocket.tasks import load_task

IGNORED = np.zeros(SIZE, bool)
IGNORED[:, :, 9:] = True  # nearly half of every volume, through the balls


def write(blobs, root, value, name="ignore", change=None):
    """The blobs, whose labels under the region are ``value``; ``name`` declares it."""
    raw = shutil.copytree(blobs, root)
    for path in sorted((raw / "labelsTr").iterdir()):
        label = sitk.GetArrayFromImage(sitk.ReadImage(path))
        label[IGNORED] = value if change is None else change(label)[IGNORED]
        sitk.WriteImage(sitk.GetImageFromArray(label), path)
    content = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    if change is None:
        content["labels"][str(value)] = name
    (raw / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return raw


def prepared(raw, **settings):
    cache = raw.with_name(f"{raw.name}_cache")
    prepare(str(raw), output=str(cache), workers=1, **settings)
    return cache


@pytest.fixture(scope="module")
def raw(blobs, tmp_path_factory):
    return write(blobs, tmp_path_factory.mktemp("ignore") / "raw", 3)


@pytest.fixture(scope="module")
def cache(raw):
    return prepared(raw)


# Names.


@pytest.mark.parametrize("name", ["ignore", "Ignore", "IGNORE"])
def test_the_name_decides(name):
    assert ignored_value(parse_labels({"background": 0, "organ": 1, name: 2}, "x")) == 2
    assert ignored_value(parse_classes(f"background,organ,{name}=7")) == 7


def test_nothing_else_is_ignored():
    assert ignored_value({0: "background", 1: "ignored part", 255: "organ"}) is None
    assert ignored_value(None) is None


@pytest.mark.parametrize("classes", ["ignore,organ", "background,ignore", "background,ignore,Ignore=9,organ"])
def test_names_that_leave_nothing_or_contradict_are_refused(classes):
    with pytest.raises(PocketError, match="classes: "):
        parse_classes(classes)


# Preparation.


def test_prepared_labels_hold_255_where_the_raw_ones_are_ignored(blobs, cache):
    opened = Cache.open(cache)
    dataset = json.loads((cache / "dataset.json").read_text(encoding="utf-8"))
    assert opened.classes == ["background", "shell", "core"]
    assert opened.ignore_index == dataset["ignore_index"] == 255
    assert sorted(dataset["fingerprint"]["classes"]) == sorted(opened.classes)
    for subject in opened.subjects:
        case = opened.case(subject)
        clean = sitk.GetArrayFromImage(sitk.ReadImage(blobs / "labelsTr" / f"{subject}.nii.gz"))
        assert np.array_equal(case.label(), np.where(IGNORED, 255, clean))
        assert case.class_voxels == [int((clean[~IGNORED] == index).sum()) for index in range(3)]
        centres = case.foreground()
        assert set(np.unique(centres[:, 0])) <= {1, 2}
        assert not IGNORED[tuple(centres[:, 1:].T)].any()


def test_other_data_ignore_nothing(blobs_cache):
    assert json.loads((blobs_cache / "dataset.json").read_text(encoding="utf-8"))["ignore_index"] is None
    assert Cache.open(blobs_cache).ignore_index is None


def test_a_cache_of_an_earlier_version_ignores_nothing(blobs_cache, tmp_path):
    old = shutil.copytree(blobs_cache, tmp_path / "old")
    content = json.loads((old / "dataset.json").read_text(encoding="utf-8"))
    del content["ignore_index"], content["preprocessing"]["ignored_value"]
    (old / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    data = VolumeDataModule(str(old), patch_size=[8, 8, 8])
    assert data.info["ignore_index"] is None


def test_resampling_treats_ignored_voxels_as_one_more_class():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 4, (9, 8, 7)).astype(np.uint8).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    grid = Grid(label.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1, 0, 0, 0, 1, 0, 0, 0, 1), "LPS")
    labels = {0: "background", 1: "ignore", 2: "a", 3: "b"}
    statistics = {"foreground": {}}
    settings = Preprocessing(spacing=[1.7, 1.3, 0.8], normalization="none")
    resolved = resolve(settings, {"channels": {"x": statistics}}, ["x"], labels)
    assert resolved.label_values == (0, 2, 3)
    _, found, geometry = apply(Volume(label[None].astype(np.float32), grid), label, resolved)
    assert found is not None

    target = geometry.prepared
    first = np.array([(here - there) for here, there in zip(target.origin[::-1], grid.origin[::-1], strict=True)])
    places = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"))
    places = first.reshape(3, 1, 1, 1) + places * np.reshape(target.spacing, (3, 1, 1, 1))
    shares = [map_coordinates((label == v).astype(np.float64), places, order=1, mode="nearest") for v in range(4)]
    sure = np.diff(np.sort(shares, axis=0)[-2:], axis=0)[0] > 1e-6
    expected = np.array([0, 255, 1, 2])[np.argmax(shares, axis=0)]
    assert sure.mean() > 0.9
    assert np.array_equal(found[sure], expected[sure])
    assert 0.1 < (found == 255).mean() < 0.4


def test_statistics_of_the_foreground_leave_ignored_voxels_out(raw, blobs):
    layout = find_layout(raw)
    case = layout.cases()[0]
    statistics = inspect(case, layout.channels, layout.labels).statistics
    assert statistics is not None
    image = sitk.GetArrayFromImage(sitk.ReadImage(blobs / "imagesTr" / f"{case.subject}.nii.gz"))
    label = sitk.GetArrayFromImage(sitk.ReadImage(blobs / "labelsTr" / f"{case.subject}.nii.gz"))
    assert sorted(statistics.foreground[0]) == sorted(image[(label > 0) & ~IGNORED].astype(float).tolist())


@pytest.mark.parametrize(
    ("value", "severity", "finding"),
    [(3, "error", "every voxel is ignored"), (0, "warning", "the label is empty")],
)
def test_labels_without_anything_to_learn_are_found(raw, tmp_path, value, severity, finding):
    copied = shutil.copytree(raw, tmp_path / "raw")
    layout = find_layout(copied)
    case = layout.cases()[0]
    label = np.full(SIZE, value, np.uint8)
    label[0, 0, 0] = 3
    sitk.WriteImage(sitk.GetImageFromArray(label), case.label)
    faults = inspect(case, layout.channels, layout.labels).faults
    assert [(fault.severity, fault.finding) for fault in faults] == [(severity, finding)]


# Patches.

TRANSFORMS = [
    RandomAxisFlip(),
    tio.RandomAffine(scales=0.15, degrees=15, translation=2),
    tio.RandomElasticDeformation(num_control_points=5, max_displacement=2),
    tio.RandomAnisotropy(),
]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_augmentation_makes_no_other_values(transform):
    label = torch.zeros(16, 16, 16, dtype=torch.uint8)
    label[:8], label[4:12, 4:12, 4:12] = 1, 255
    torch.manual_seed(0)
    for _ in range(5):
        item = from_subject(transform(to_subject(torch.rand(1, 16, 16, 16), label, [1.0, 1.0, 1.0], "a")))
        assert set(item["label"].unique().tolist()) == {0, 1, 255}
        assert 0.5 < (item["label"] == 255).sum() / (label == 255).sum() < 2


def test_no_source_centres_patches_on_ignored_voxels(cache):
    opened = Cache.open(cache)
    cases = [opened.case(subject) for subject in opened.subjects]
    sampler = ForegroundSampler(probability=1.0)
    queue = QueuePatches(cases, [1, 1, 1], sampler, settings=QueueSettings(length=40, samples_per_volume=4))
    drawn = [int(queue[index]["label"]) for index in range(len(queue))]
    patches = PatchDataset(cases, [1, 1, 1], sampler)
    drawn += [int(patches[0, index]["label"]) for index in range(40)]
    assert len(drawn) == 80
    assert set(drawn) == {1, 2}


# Losses.


def test_coarser_labels_of_ignored_voxels_are_ignored():
    label = torch.randint(0, 3, (2, 8, 8, 8), dtype=torch.uint8)
    label[:, :, :, 4:] = 255
    for size in ((4, 4, 4), (2, 4, 8)):
        coarse = downsample_label(label, size)
        assert (coarse[..., size[2] // 2 :] == 255).all()
        assert (coarse[..., : size[2] // 2] < 3).all()


@pytest.mark.parametrize("loss", [L2Dice(ignore_index=255), DiceCrossEntropy(ignore_index=255)])
def test_logits_of_ignored_voxels_have_no_gradient_at_any_resolution(loss):
    torch.manual_seed(0)
    label = torch.randint(0, 3, (2, 8, 8, 8), dtype=torch.uint8)
    label[:, :, :, 4:] = 255
    logits = [torch.randn(2, 3, size, size, size, requires_grad=True) for size in (8, 4)]
    deep_supervision_loss(logits, label, loss).backward()
    for level in logits:
        assert level.grad is not None
        half = level.shape[-1] // 2
        assert (level.grad[..., half:] == 0).all()
        assert (level.grad[..., :half] != 0).all()


# Training and testing.


def fit(options, cache, run, *extra):
    main(["fit", *options, f"--data.init_args.cache={cache}", f"--run_dir={run}", *extra])
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.e2e
def test_what_stands_under_the_region_changes_no_weight(options, blobs, cache, tmp_path):
    """Labels that are corrupted there are as good as any other once they are ignored, whatever value says so."""
    extra = ["--config=strong_augmentation", "--model.init_args.network.init_args.deep_supervision=1"]
    ignoring = [*extra, "--config=ignore_label"]
    first = fit(options, cache, tmp_path / "first", *ignoring)
    other = prepared(write(blobs, tmp_path / "other", 200, "Ignore"))
    assert same(first, fit(options, other, tmp_path / "second", *ignoring))
    corrupted = prepared(write(blobs, tmp_path / "corrupted", 0, change=lambda label: 2 - label))
    assert not same(first, fit(options, corrupted, tmp_path / "third", *extra))


@pytest.mark.e2e
def test_scores_leave_ignored_voxels_out(options, cache, tmp_path):
    run = tmp_path / "run"
    fit(options, cache, run, "--config=ignore_label", "--model.init_args.optimizer.init_args.lr=0.01")
    main(["test", f"--run_dir={run}"])
    with (run / "test" / "cases.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    task, opened = load_task(run / "checkpoints" / "last.ckpt"), Cache.open(cache)
    assert task.info.ignore_index == 255
    assert table
    left_out = 0
    for row in table:
        case = opened.case(row["subject"])
        with torch.inference_mode():
            predicted = task.logits(torch.from_numpy(case.image().copy())[None]).argmax(1)[0].numpy()
        for index, name in ((1, "shell"), (2, "core")):
            found, truth = (predicted == index) & ~IGNORED, case.label() == index
            both = found.sum() + truth.sum()
            expected = 2 * (found & truth).sum() / both if both else 1.0
            assert float(row[f"dice_{name}"]) == pytest.approx(expected, abs=1e-6)
        left_out += int(((predicted > 0) & IGNORED).sum())
    assert left_out > 0


@pytest.mark.e2e
@pytest.mark.parametrize("extra", [[], ["--config=dice_ce"], ["--model.init_args.loss.init_args.ignore_index=2"]])
def test_a_loss_that_would_count_them_is_refused(options, cache, tmp_path, fails, extra):
    message = fails(["fit", *options, f"--data.init_args.cache={cache}", *extra])
    assert "model.init_args.loss.init_args.ignore_index: is " in message
    assert "--config ignore_label" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.e2e
@pytest.mark.parametrize("presets", [["ignore_label", "dice_ce"], ["dice_ce", "ignore_label"]])
def test_the_order_of_loss_and_ignore_label_does_not_matter(options, cache, tmp_path, presets):
    fit(options, cache, tmp_path / "run", *[f"--config={preset}" for preset in presets], "--trainer.max_epochs=1")
    loss = load_task(tmp_path / "run" / "checkpoints" / "last.ckpt").loss
    assert (type(loss), loss.ignore_index) == (DiceCrossEntropy, 255)


def test_the_default_loss_ignores_what_the_data_ignore(cache):
    from lightning_pocket.networks import UNet
    from lightning_pocket.tasks import SegmentationTask

    info = VolumeDataModule(str(cache), patch_size=[8, 8, 8]).info
    task = SegmentationTask(UNet(1, 3, depth=2), info)
    assert task.loss.ignore_index == task.val_dice.ignore_index == 255
