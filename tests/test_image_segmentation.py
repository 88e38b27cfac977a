"""2D images with masks from the raw files to scores and predicted masks."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from dicom_files import write_dicom
from mask_datasets import disc, save, write_busi, write_index, write_pairs
from PIL import Image
from scipy import ndimage

from lightning_pocket.cli import main
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.affine2d import Affine2D, RandomAffine2D
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.images2d import chunks
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.dataset import augment_masked
from lightning_pocket.data.images2d.preprocess import resize_label
from lightning_pocket.data.on_device.apply import augment
from lightning_pocket.data.on_device.draw import RecipeDrawer
from lightning_pocket.data.patches import TorchSeed
from lightning_pocket.data.splits import SplitSettings
from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import score_case

SIZES = ((40, 56), (61, 33))


def prepare(data: Path, cache: Path, *options: str) -> ImageCache:
    main(["prepare", str(data), f"--output={cache}", "--workers=1", *options])
    return ImageCache.open(cache)


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Twenty images of two sizes, two views of ten patients, pixels of 0.5 x 0.25 mm."""
    root = write_pairs(tmp_path_factory.mktemp("raw"), 20, sizes=SIZES)
    names = [f"case_{index:02d}.png" for index in range(20)]
    columns = {"file": names, "group": [f"p{index // 2}" for index in range(20)], "pixel_mm": ["0.5x0.25"] * 20}
    return write_index(root, columns)


@pytest.fixture(scope="module")
def cache(raw, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prepared") / "cache"
    prepare(raw, path, "--size=32", "--split=0.6,0.2,0.2", "--seed=1")
    return path


# The cache


def test_a_cache_holds_images_masks_and_truths(raw, cache):
    opened = ImageCache.open(cache)
    assert opened.images().shape == (20, 1, 32, 32)
    assert (opened.labels().shape, opened.labels().dtype) == ((20, 32, 32), np.uint8)
    assert opened.classes == ["background", "foreground"]
    for row, subject in enumerate(opened.subjects):
        stored = np.array(Image.open(raw / "masks" / f"{subject}.png")) > 0
        original = opened.original(row)
        np.testing.assert_array_equal(original.label(), stored)
        assert original.spacing == (0.5, 0.25)
        height, width = stored.shape
        places = [np.floor((np.arange(32) + 0.5) * side / 32).astype(int) for side in (height, width)]
        np.testing.assert_array_equal(opened.labels()[row], stored[np.ix_(*places)])  # the pixel at each new centre
        assert opened.pixel_size(row) == pytest.approx((height * 0.5 / 32, width * 0.25 / 32))
    assert not list(cache.glob(".*"))
    parts = {split: {f.group for f in opened.folds.values() if f.split == split} for split in ("train", "val", "test")}
    assert [len(groups) for groups in parts.values()] == [6, 2, 2]
    assert len(set.union(*parts.values())) == 10  # no patient is on two sides


def test_a_killed_preparation_continues(tmp_path, monkeypatch):
    root = write_pairs(tmp_path / "raw", 70)
    whole = prepare(root, tmp_path / "whole", "--size=8")
    examine, read = chunks.examine, []

    def examine_and_die(case, *settings):
        read.append(case.subject)
        if len(read) == 50:
            raise RuntimeError
        return examine(case, *settings)

    monkeypatch.setattr(chunks, "examine", examine_and_die)
    with pytest.raises(RuntimeError):
        prepare(root, tmp_path / "cache", "--size=8")
    with pytest.raises(PocketError, match="not a complete cache"):
        ImageCache.open(tmp_path / "cache")
    read[:] = [""] * 1000
    again = prepare(root, tmp_path / "cache", "--size=8")
    assert len(read) - 1000 == 70 - 32
    assert again.hash == whole.hash
    np.testing.assert_array_equal(again.labels(), whole.labels())
    for row in range(70):
        np.testing.assert_array_equal(again.original(row).label(), whole.original(row).label())


def test_a_cache_says_what_has_changed(tmp_path, fails, capsys):
    root = write_pairs(tmp_path / "raw", 5)
    names = [f"case_{index:02d}.png" for index in range(5)]
    write_index(root, {"file": names, "pixel_mm": ["0.5"] * 5})
    command = ["prepare", str(root), f"--output={tmp_path / 'cache'}", "--workers=1", "--size=16"]
    main(command)
    main(command)
    assert "is up to date (5 images)" in capsys.readouterr().out
    write_index(root, {"file": names, "pixel_mm": ["0.5"] * 4 + ["0.7"]})
    assert "1 images with another pixel size, such as case_04" in fails(command)
    (root / "index.csv").unlink()
    assert "5 images with another pixel size, such as case_00" in fails(command)
    write_index(root, {"file": names, "pixel_mm": ["0.5"] * 5})
    assert "classes: None -> background,lesion" in fails([*command, "--classes=background,lesion"])
    save(disc(77)[1], root / "masks" / "case_03.png")
    assert "1 files with other content" in fails(command)
    with pytest.raises(PocketError, match=r"stale, since .*case_03.png has changed"):
        ImageCache.open(tmp_path / "cache")
    main([*command, "--fresh"])
    np.testing.assert_array_equal(ImageCache.open(tmp_path / "cache").original(3).label(), disc(77)[1] > 0)
    (tmp_path / "cache" / "truth" / "00000003.npz").unlink()
    with pytest.raises(PocketError, match=r"truth: holds 4 masks, expected 5; run `pocket prepare` again"):
        ImageCache.open(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache" / "truth")
    main(command)  # damaged: made again
    assert ImageCache.open(tmp_path / "cache").original(0).label().any()


def test_the_pixel_size_of_a_file_is_no_change(tmp_path, fails, capsys):
    for index in range(3):
        image, mask = disc(index)
        write_dicom(tmp_path / "raw" / "images" / f"{index}.dcm", image)
        save(mask, tmp_path / "raw" / "masks" / f"{index}.png")
    command = ["prepare", str(tmp_path / "raw"), f"--output={tmp_path / 'cache'}", "--workers=1", "--num_folds=3"]
    main(command)
    assert ImageCache.open(tmp_path / "cache").pixel_mm == [(0.3, 0.2)] * 3
    main(command)
    assert "is up to date (3 images)" in capsys.readouterr().out
    write_index(tmp_path / "raw", {"file": ["0.dcm", "1.dcm", "2.dcm"], "pixel_mm": ["0.3x0.2", "0.4", ""]})
    assert "1 images with another pixel size, such as 1" in fails(command)


def test_an_error_leaves_no_cache(tmp_path):
    root = write_pairs(tmp_path / "raw", 4)
    save(np.zeros((5, 5), np.uint8), root / "masks" / "case_02.png")
    with pytest.raises(SystemExit):
        main(["prepare", str(root), f"--output={tmp_path / 'cache'}", "--workers=1", "--size=16"])
    assert not (tmp_path / "cache").exists()


def test_a_cache_of_masks_is_no_other(cache, fails, tmp_path):
    with pytest.raises(PocketError, match="is a cache of images with masks; train on it with --config segment_images"):
        Cache.open(cache)
    assert "segment_images" in fails(["plan", str(cache), f"--output={tmp_path / 'plan.yaml'}"])
    options = [f"--data.init_args.cache={cache}", f"--run_dir={tmp_path / 'run'}"]
    message = fails(["fit", "--config=classify_images", *options])
    assert "its images have masks rather than classes" in message


def test_colours_and_an_ignored_class(tmp_path):
    label = np.zeros((24, 24, 3), np.uint8)
    label[4:12] = (255, 0, 0)
    label[16:18] = (255, 255, 255)
    for index in range(3):
        save(disc(index, (24, 24))[0], tmp_path / "raw" / "images" / f"{index}.png")
        save(label, tmp_path / "raw" / "masks" / f"{index}.png")
    classes = "--classes=background=#000000,organ=#ff0000,ignore=#ffffff"
    opened = prepare(tmp_path / "raw", tmp_path / "cache", "--size=24", "--num_folds=3", classes)
    assert opened.classes == ["background", "organ"]
    assert opened.ignore_index == 255
    assert np.unique(opened.labels()).tolist() == [0, 1, 255]
    data = ImageDataModule(str(tmp_path / "cache"), num_workers=0, split=SplitSettings(fold=None))
    assert (data.num_classes, data.info["ignore_index"]) == (2, 255)


# Batches


def test_batches_for_training_and_tests(cache):
    data = ImageDataModule(str(cache), batch_size=3, num_workers=0)
    opened = ImageCache.open(cache)
    assert [len(part) for part in (data.split.train, data.split.val, data.split.test)] == [12, 4, 4]
    assert (data.in_channels, data.num_classes) == (1, 2)
    assert data.info["preprocessing"]["masks"]["labels"] == {"0": "background", "255": "foreground"}
    assert (data.info["patch_size"], data.info["spacing"]) == ([32, 32], None)
    assert data.record["cache"] == str(cache.resolve())
    batch = next(iter(data.train_dataloader()))
    assert list(batch) == ["image", "label", "subject"]
    for image, label, subject in zip(*batch.values(), strict=True):
        row = opened.subjects.index(subject)
        np.testing.assert_array_equal(image, opened.images()[row])
        np.testing.assert_array_equal(label, opened.labels()[row])
    tested = next(iter(data.test_dataloader()))
    assert set(tested) == {"image", "label", "subject", "spacing", "original"}
    for index, subject in enumerate(tested["subject"]):
        row = opened.subjects.index(subject)
        assert tested["spacing"][index] == pytest.approx(opened.pixel_size(row))
        np.testing.assert_array_equal(tested["original"][index].label(), opened.original(row).label())
    assert "original" not in next(iter(data.val_dataloader()))


def test_the_path_of_the_cache_is_recorded_whole(cache, monkeypatch):
    monkeypatch.chdir(cache.parent)
    assert ImageDataModule("cache").record["cache"] == os.path.realpath(cache)


def test_classes_of_images_with_masks_can_be_balanced(tmp_path, cache):
    prepare(write_busi(tmp_path / "raw"), tmp_path / "cache", "--size=16", "--split=1,0,0")
    split = SplitSettings(fold=None, val_fraction=0)
    data = ImageDataModule(str(tmp_path / "cache"), 6, split, class_balance=True, num_workers=0)
    subjects = next(iter(data.train_dataloader()))["subject"]
    assert sorted(name.split()[0] for name in subjects) == ["benign"] * 2 + ["malignant"] * 2 + ["normal"] * 2
    with pytest.raises(PocketError, match="have masks and no class"):
        ImageDataModule(str(cache), class_balance=True)


# Augmentation


def smooth(size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    image = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=size), 4).astype(np.float32)
    return image, (image > 0).astype(np.uint8)


def test_an_affine_with_shear_agrees_with_scipy():
    image, label = smooth()
    transform = Affine2D((1.1, 0.9), 20.0, (3.0, -5.0), (6.0, -4.0), pad=0.0)
    moved, mask = augment_masked(torch.from_numpy(image)[None], torch.from_numpy(label), transform, 0)
    turn, lean = np.deg2rad(20), np.tan(np.deg2rad([6, -4]))
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    forwards = np.diag([1.1, 0.9]) @ rotation @ np.array([[1, lean[0]], [lean[1], 1]])
    centre, backwards = (np.array(image.shape) - 1) / 2, np.linalg.inv(forwards)
    offset = centre - backwards @ (centre + np.diag([1.1, 0.9]) @ [3, -5])
    inside = ndimage.affine_transform(np.ones_like(image), backwards, offset, order=1) > 0.9999
    assert inside.mean() > 0.7
    expected = ndimage.affine_transform(image, backwards, offset, order=1)
    np.testing.assert_allclose(moved[0].numpy()[inside], expected[inside], atol=1e-5)
    nearest = ndimage.affine_transform(label, backwards, offset, order=0)
    np.testing.assert_array_equal(mask.numpy()[inside], nearest[inside])


def test_image_and_mask_move_together():
    image, label = smooth()
    transform = tio.Compose([RandomAffine2D((0.8, 1.2), (-20, 20), (-5, 5), (-10, 10), default_pad_value=0)])
    for seed in range(5):
        pair = augment_masked(torch.from_numpy(label)[None].float(), torch.from_numpy(label), transform, seed)
        assert ((pair[0][0] > 0.5) != (pair[1] > 0)).float().mean() < 0.01  # a mask as image, but for its edges
    again = augment_masked(torch.from_numpy(label)[None].float(), torch.from_numpy(label), transform, 4)
    assert torch.equal(pair[0], again[0])
    assert torch.equal(pair[1], again[1])
    assert not torch.equal(
        pair[1], augment_masked(torch.from_numpy(image)[None], torch.from_numpy(label), transform, 3)[1]
    )


@pytest.mark.parametrize("where", ["loader", "device"])
def test_training_batches_are_augmented_with_their_masks(cache, where):
    settings = [tio.RandomFlip(axes=[2], flip_probability=1.0)]
    data = ImageDataModule(str(cache), 12, augmentation=settings, augment_on=where, num_workers=0)
    opened = ImageCache.open(cache)
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    for image, label, subject in zip(*batch.values(), strict=True):
        row = opened.subjects.index(subject)
        np.testing.assert_array_equal(image, opened.images()[row][..., ::-1])
        np.testing.assert_array_equal(label, opened.labels()[row][..., ::-1])
    assert len(set(batch["subject"])) == 12


def test_the_device_draws_and_does_the_same():
    image, label = smooth()
    transforms = [
        tio.RandomFlip(axes=[2]),
        RandomAffine2D((0.8, 1.2), (-20, 20), (-5, 5), (-10, 10), stretch=True, p=0.7),
        tio.RandomNoise(std=(0.01, 0.1)),
    ]
    drawer = RecipeDrawer(transforms)
    for seed in range(6):
        expected = augment_masked(torch.from_numpy(image)[None], torch.from_numpy(label), tio.Compose(transforms), seed)
        with TorchSeed(seed):
            recipe = drawer.draw((1.0, 1.0, 1.0), 1)
        batch = torch.from_numpy(image)[None, None, None].clone(), torch.from_numpy(label)[None, None].clone()
        augment(*batch, [recipe])
        torch.testing.assert_close(batch[0][0, :, 0], expected[0])
        assert torch.equal(batch[1][0, 0], expected[1])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (1.1, 0.9)}, "RandomAffine2D.scales: found"),
        ({"scales": (0.0, 1.0)}, "RandomAffine2D.scales: found"),
        ({"shears": (-50.0, 0.0)}, "between -45 and 45"),
        ({"default_pad_value": "otsu"}, "expected minimum, mean or a number"),
    ],
)
def test_wrong_ranges_are_refused(settings, message):
    with pytest.raises(PocketError, match=message):
        RandomAffine2D(**settings)


# Scores and predictions


def by_hand(predicted: np.ndarray, truth: np.ndarray, spacing: tuple[float, float]) -> tuple[float, float]:
    """Dice, and HD95 from SimpleITK's contours and distance maps."""
    dice = 2 * (predicted & truth).sum() / (predicted.sum() + truth.sum())
    images = [sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)) for mask in (predicted, truth)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    contours = [sitk.LabelContour(image, fullyConnected=False) for image in images]
    options = {"squaredDistance": False, "useImageSpacing": True}
    maps = [np.abs(sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(contour, **options))) for contour in contours]
    edges = [sitk.GetArrayFromImage(contour) > 0 for contour in contours]
    return dice, max(np.percentile(maps[1][edges[0]], 95), np.percentile(maps[0][edges[1]], 95))


def test_distances_are_in_pixels_where_their_size_is_not_known():
    truth, predicted = np.zeros((2, 20, 30), np.uint8)
    truth[5:12, 5:15] = predicted[5:12, 8:18] = 1
    pixels = score_case(predicted, truth, ["background", "lesion"], None)
    inches = score_case(predicted, truth, ["background", "lesion"], (1.0, 1.0))
    assert [name for name in pixels if name.startswith("hd95")] == ["hd95_px", "hd95_px_lesion"]
    assert list(pixels.values()) == list(inches.values())
    assert pixels["hd95_px"] == 3.0


@pytest.mark.e2e
def test_masks_are_trained_tested_predicted_and_evaluated(raw, cache, tmp_path, capsys):
    run = tmp_path / "run"
    network = "--model.init_args.network.init_args"
    main(
        [
            "fit",
            "--config=segment_images",
            "--config=prediction_files",
            f"--data.init_args.cache={cache}",
            "--data.init_args.batch_size=4",
            f"{network}.depth=2",
            f"{network}.widths.base=8",
            "--model.init_args.optimizer.init_args.lr=0.02",
            f"--run_dir={run}",
            "--trainer.max_epochs=12",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
        ]
    )
    main(["test", f"--run_dir={run}"])
    rows = rows_of(run / "test" / "cases.csv")
    opened = ImageCache.open(cache)
    assert set(rows) == {subject for subject, place in opened.folds.items() if place.split == "test"}
    assert np.mean([float(row["dice"]) for row in rows.values()]) > 0.8
    for subject, row in rows.items():
        predicted = np.array(Image.open(run / "test" / "predictions" / f"{subject}.png"))
        truth = np.array(Image.open(raw / "masks" / f"{subject}.png"))
        assert predicted.shape == truth.shape
        assert set(np.unique(predicted)) <= {0, 255}
        dice, hd95 = by_hand(predicted > 0, truth > 0, (0.5, 0.25))
        assert float(row["dice"]) == pytest.approx(dice, abs=1e-6)
        assert float(row["hd95_mm"]) == pytest.approx(hd95, abs=1e-4)
    assert (run / "test" / "pictures").is_dir()

    images = [str(raw / "images" / f"{subject}.png") for subject in rows]
    output = tmp_path / "out"
    main(["infer", str(run), *images, f"--output={output}", "--probabilities", "--device=cpu"])
    for subject in rows:
        written = np.array(Image.open(output / f"{subject}.png"))
        np.testing.assert_array_equal(written, np.array(Image.open(run / "test" / "predictions" / f"{subject}.png")))
        likely = np.array(Image.open(output / "probabilities" / subject / "foreground.png")) / 65535
        assert ((likely > 0.5) != (written > 0)).mean() < 0.06  # interpolated against nearest: only edges differ
    capsys.readouterr()
    main(["infer", str(run), *images, f"--output={output}", "--probabilities", "--device=cpu"])
    assert capsys.readouterr().out.count("already segmented") == len(rows)

    main(["evaluate", str(output), str(raw), "--predicted_only", f"--output={tmp_path / 'scores.csv'}", "--workers=1"])
    assert rows_of(tmp_path / "scores.csv") == rows
    assert "surface Dice at 1 mm" in capsys.readouterr().out
    main(["evaluate", str(output), str(raw / "masks"), "--predicted_only", "--workers=1"])
    plain = rows_of(output / "scores.csv")  # a folder of masks does not tell the size of pixels
    assert {row["dice"] for row in plain.values()} == {row["dice"] for row in rows.values()}
    assert "hd95_px" in next(iter(plain.values()))
    record = json.loads((output / "infer.json").read_text(encoding="utf-8"))
    assert record["classes"] == {"0": "background", "255": "foreground"}


def test_nearest_neighbours_there_and_back():
    label = (np.arange(12 * 10).reshape(12, 10) % 3).astype(np.uint8)
    np.testing.assert_array_equal(resize_label(resize_label(label, (36, 40)), (12, 10)), label)
