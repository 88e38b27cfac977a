"""Images that are streamed from folders of classes: ImageNet and its like."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_pocket.data import StreamedImageDataModule
from lightning_pocket.data.images2d.preprocess import ImagePreprocessing
from lightning_pocket.data.images2d.read import Picture
from lightning_pocket.data.images2d.stream import RandomResizedCrop
from lightning_pocket.data.splits import SplitSettings
from lightning_pocket.errors import PocketError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def photograph(number: int, size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_photographs(root: Path, train: int = 10, val: int = 3) -> Path:
    """Write images of three classes and several sizes, the shorter side at least 12 pixels."""
    number = 0
    for split, count in (("train", train), ("val", val)):
        for name in ("n01", "n02", "n03"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                size = [(12, 15), (20, 12), (12, 12)][index % 3]
                Image.fromarray(photograph(number, size)).save(root / split / name / f"{name}_{index}.png")
                number += 1
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("imagenet"))


def module(folder: Path, **settings) -> StreamedImageDataModule:
    plain = {"size": (8, 8), "shorter_side": 12, "batch_size": 4, "num_workers": 0, "mean": MEAN, "std": STD}
    plain["split"] = SplitSettings(fold=None, val_fraction=0.2, max_val="all")
    return StreamedImageDataModule(str(folder), **{**plain, **settings})


def standardized(pixels: np.ndarray) -> np.ndarray:
    return ((pixels / 255 - MEAN) / STD).transpose(2, 0, 1)


def epoch_of(loader, epoch: int = 0) -> tuple[list[str], torch.Tensor]:
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return [name for batch in batches for name in batch["subject"]], torch.cat([batch["image"] for batch in batches])


def test_official_validation_images_test_and_some_training_images_validate(folder):
    data = module(folder)
    assert {name.split("/")[0] for name in data.split.test} == {"val"}
    assert len(data.split.test) == 9
    parts = {part: Counter(name.split("/")[1] for name in getattr(data.split, part)) for part in ("train", "val")}
    assert parts == {"train": dict.fromkeys(("n01", "n02", "n03"), 8), "val": dict.fromkeys(("n01", "n02", "n03"), 2)}
    assert {name.split("/")[0] for name in (*data.split.train, *data.split.val)} == {"train"}
    assert module(folder).split == data.split
    seeded = module(folder, split=SplitSettings(fold=None, val_fraction=0.2, max_val="all", seed=1))
    assert seeded.split.val != data.split.val
    assert (data.num_classes, data.in_channels) == (3, 3)


def test_a_folder_of_its_own_validates(tmp_path):
    write_photographs(tmp_path, train=4, val=2)
    write_photographs(tmp_path / "more", train=1, val=3)
    data = module(tmp_path, val_folder="more/val")
    assert {len(part) for part in (data.split.val, data.split.test)} == {9, 6}
    assert all(name.startswith("more/val/") for name in data.split.val)
    assert len(data.split.train) == 12


def test_the_middle_of_an_image_is_tested(folder):
    for batch in module(folder).test_dataloader():
        for image, target, subject in zip(batch["image"], batch["target"], batch["subject"], strict=True):
            pixels = np.asarray(Image.open(folder / subject))
            assert 12 in pixels.shape[:2]  # nothing is resized
            top, left = ((side - 8) // 2 for side in pixels.shape[:2])
            expected = standardized(pixels[top : top + 8, left : left + 8])
            np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)
            assert int(target) == ["n01", "n02", "n03"].index(subject.split("/")[1])
            assert image.dtype == torch.float32


def test_ten_crops_are_those_of_the_whole_resized_image(folder):
    batch = next(iter(module(folder, test_crops=10).test_dataloader()))
    assert batch["image"].shape == (4, 10, 3, 8, 8)
    for views, subject in zip(batch["image"], batch["subject"], strict=True):
        whole = standardized(np.asarray(Image.open(folder / subject)))
        np.testing.assert_allclose(views[1], whole[:, :8, :8], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(views[4], whole[:, -8:, -8:], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(views[8], whole[:, -8:, 7::-1], rtol=1e-4, atol=1e-5)
    plain = next(iter(module(folder).test_dataloader()))
    assert torch.equal(batch["image"][:, 0], plain["image"])


@pytest.mark.parametrize(("shape", "resized"), [((40, 60), (20, 30)), ((70, 30), (47, 20)), ((20, 20), (20, 20))])
def test_the_shorter_side_is_resized_and_the_aspect_kept(shape, resized):
    preprocessing = ImagePreprocessing((16, 16), "grey", "none", shorter_side=20)
    rows = np.broadcast_to(np.linspace(0, 200, shape[0], dtype=np.float32)[:, None], shape)
    planes = preprocessing.planes(Picture(rows, None))
    assert planes.shape == (1, *resized)
    assert preprocessing.apply(Picture(rows, None)).shape == (1, 16, 16)
    assert planes[0, resized[0] // 2].mean() == pytest.approx(100, abs=6)
    assert ImagePreprocessing.from_dict(preprocessing.to_dict()) == preprocessing


def test_settings_of_the_middle_that_make_no_sense():
    with pytest.raises(PocketError, match="shorter_side: is 20, expected at least 32"):
        ImagePreprocessing((32, 16), shorter_side=20)


def test_random_crops_lie_inside_and_keep_to_area_and_ratio():
    crop, rng = RandomResizedCrop((0.2, 0.6), (0.7, 1.6), 0.5), np.random.default_rng(0)
    areas, ratios, flips = [], [], 0
    for _ in range(3000):
        (left, top, right, bottom), flip = crop.draw((100, 100), rng)
        assert 0 <= left < right <= 100
        assert 0 <= top < bottom <= 100
        areas.append((right - left) * (bottom - top) / 10000)
        ratios.append((right - left) / (bottom - top))
        flips += flip
    assert min(areas) > 0.19
    assert max(areas) < 0.61
    assert min(ratios) > 0.67
    assert max(ratios) < 1.67
    assert np.mean(areas) == pytest.approx(0.4, abs=0.02)
    assert np.mean(np.log(ratios)) == pytest.approx(np.log(0.7 * 1.6) / 2, abs=0.02)
    assert flips == pytest.approx(1500, abs=150)


def test_an_image_too_long_for_any_crop_gives_its_middle():
    box, _ = RandomResizedCrop((1.0, 1.0), (0.75, 4 / 3)).draw((10, 400), np.random.default_rng(0))
    assert box == (193, 0, 206, 10)
    box, _ = RandomResizedCrop((1.0, 1.0), (0.75, 4 / 3)).draw((400, 9), np.random.default_rng(0))
    assert box == (0, 194, 9, 206)


def test_a_crop_of_the_whole_image_is_the_image(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = photograph(index, (8, 8))
                Image.fromarray(pixels).save(tmp_path / split / name / f"{index}.png")
    crop = RandomResizedCrop((1.0, 1.0), (1.0, 1.0), flip=1.0)
    for batch in module(tmp_path, crop=crop).train_dataloader():
        for image, subject in zip(batch["image"], batch["subject"], strict=True):
            expected = standardized(np.asarray(Image.open(tmp_path / subject)))[:, :, ::-1]
            np.testing.assert_allclose(image, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.5, 0.2)}, r"crop\.scale"),
        ({"scale": (0.0, 1.0)}, r"crop\.scale"),
        ({"ratio": (2.0, 1.0)}, r"crop\.ratio"),
        ({"flip": 2.0}, r"crop\.flip"),
    ],
)
def test_crops_that_make_no_sense(settings, message):
    with pytest.raises(PocketError, match=message):
        RandomResizedCrop(**settings)


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_depend_on_seed_and_epoch_alone(folder, workers, monkeypatch):
    reference = module(folder).train_dataloader()
    first, _ = epoch_of(reference, 0)
    subjects, images = epoch_of(reference, 1)
    assert sorted(first) == sorted(subjects) == sorted(module(folder).split.train)
    assert first != subjects
    again, found = epoch_of(module(folder, num_workers=workers, batch_size=5).train_dataloader(), 1)
    assert again == subjects
    assert torch.equal(found, images)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert epoch_of(module(folder).train_dataloader(), 1)[0] != subjects


def test_processes_share_the_images_and_take_equal_steps(folder, monkeypatch):
    seen = []
    for rank in range(2):
        data = module(folder)
        monkeypatch.setattr(data, "_process", lambda rank=rank: (rank, 2))
        seen.append([name for batch in data.test_dataloader() for name in batch["subject"]])
    assert [len(names) for names in seen] == [5, 5]
    assert seen[1][-1] == ""
    assert sorted(seen[0] + seen[1][:-1]) == sorted(module(folder).split.test)


def test_nothing_is_read_before_it_is_asked_for_and_damage_is_named(tmp_path):
    write_photographs(tmp_path, train=2, val=1)
    file = tmp_path / "val" / "n02" / "n02_0.png"
    file.write_bytes(file.read_bytes()[:40])
    loader = module(tmp_path, batch_size=1).test_dataloader()
    with pytest.raises(PocketError, match=r"n02_0\.png: .*intact copy") as caught:
        list(loader)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_folder": "training"}, r"training: is missing; expected training/CLASS/\*\.JPEG.*train_folder"),
        ({"test_folder": "empty"}, r"empty: has no images in folders of classes.*test_folder"),
        ({"test_folder": "other"}, r"n09: train has no class 'n09'"),
        ({"images_per_epoch": 0}, "images_per_epoch: expected at least 1"),
        ({"test_crops": 3}, "test_crops: found 3, expected 1 or 10"),
        ({"shorter_side": 4}, "shorter_side: is 4, expected at least 8"),
        ({"color": "grey"}, "mean: is .*expected 1 number"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, settings, message):
    write_photographs(tmp_path, train=2, val=1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "n09").mkdir(parents=True)
    Image.fromarray(photograph(0, (12, 12))).save(tmp_path / "other" / "n09" / "1.JPEG")
    with pytest.raises(PocketError, match=message) as caught:
        module(tmp_path, **settings)
    assert "\n" not in str(caught.value)


def test_what_the_checkpoint_learns_prepares_a_new_image_alike(folder):
    data = module(folder)
    info = data.info
    assert (info["patch_size"], info["classes"]) == ([8, 8], ["n01", "n02", "n03"])
    rebuilt = ImagePreprocessing.from_dict(info["preprocessing"])
    batch = next(iter(data.test_dataloader()))
    for image, subject in zip(batch["image"], batch["subject"], strict=True):
        again = rebuilt.apply(Picture(np.asarray(Image.open(folder / subject)), 255))
        np.testing.assert_array_equal(image, again)
    assert data.record["split"]["test"] == list(data.split.test)
    assert data.record["hash"] != module(folder, train_folder="val", test_folder="train").record["hash"]
