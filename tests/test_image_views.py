"""Crops and flips of whole batches, batches read at once, ten crops of a test, and the errors that count guesses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from discs import disc_images
from mask_datasets import write_pairs
from packed_datasets import write_mnist
from pytorch_lightning import Trainer
from torch.utils.data import DataLoader, default_collate

from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.images2d.dataset import CachedImages, OrderedImages, TrainingImages, collate
from lightning_pocket.data.images2d.views import CropFlip, ten_views
from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import top_error
from lightning_pocket.networks import Classifier
from lightning_pocket.tasks import ClassificationTask
from lightning_pocket.types import DatasetInfo


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Forty training and ten test images of 9 x 7 pixels in ten classes."""
    root = tmp_path_factory.mktemp("raw")
    write_mnist(root, {"train": 40, "t10k": 10})
    path = tmp_path_factory.mktemp("prepared") / "cache"
    prepare(str(root), output=str(path), normalization="unit", workers=1)
    return path


def module(cache: Path, **settings) -> ImageDataModule:
    return ImageDataModule(str(cache), **{"batch_size": 6, "num_workers": 0, **settings})


def epoch_of(loader: DataLoader, epoch: int = 0) -> tuple[list[str], torch.Tensor]:
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return [name for batch in batches for name in batch["subject"]], torch.cat([batch["image"] for batch in batches])


@pytest.mark.parametrize("padding", [0, 1, 4])
def test_a_batch_is_cropped_as_one_would_crop_each_image(padding):
    crop_flip = CropFlip(padding, 0.5)
    images = torch.randn(40, 3, 6, 5)
    drawn = [crop_flip.draw((7, 0, index)) for index in range(40)]
    found = crop_flip(images, drawn)
    assert found.is_contiguous()
    for image, (top, left, flip), crop in zip(images.numpy(), drawn, found.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        expected = padded[:, top : top + 6, left : left + 5]
        np.testing.assert_array_equal(crop, expected[:, :, ::-1] if flip else expected)


def test_crops_and_flips_are_drawn_evenly_and_by_the_key_alone():
    crop_flip = CropFlip(2, 0.25)
    drawn = [crop_flip.draw((0, 0, index)) for index in range(5000)]
    counts = Counter((top, left) for top, left, _ in drawn)
    assert set(counts) == {(y, x) for y in range(5) for x in range(5)}
    assert min(counts.values()) > 140  # 200 expected, std 14
    assert sum(flip for _, _, flip in drawn) == pytest.approx(1250, abs=125)
    assert crop_flip.draw((0, 0, 17)) == drawn[17]
    assert [crop_flip.draw((0, 1, index)) for index in range(50)] != drawn[:50]
    assert [crop_flip.draw((1, 0, index)) for index in range(50)] != drawn[:50]
    assert not any(CropFlip(2, 0.0).draw((0, 0, index))[2] for index in range(200))


@pytest.mark.parametrize("settings", [{"padding": -1}, {"flip": 1.5}, {"flip": -0.1}])
def test_crops_that_make_no_sense(settings):
    with pytest.raises(PocketError, match=rf"crop_flip\.{next(iter(settings))}: found"):
        CropFlip(**settings)


@pytest.mark.parametrize("balance", [False, True])
def test_a_batch_read_at_once_is_that_of_single_images(cache, balance):
    data = module(cache)
    images = CachedImages(data.cache, data.split.train)
    training = TrainingImages(images, seed=3, balance=balance)
    keys = [(epoch, index) for epoch in (0, 1) for index in range(20)]
    at_once, single = training.__getitems__(keys), default_collate([dict(training[key]) for key in keys])
    assert at_once.keys() == single.keys()
    for name, value in single.items():
        assert torch.equal(at_once[name], value) if isinstance(value, torch.Tensor) else at_once[name] == value
    assert at_once["image"].dtype == torch.float32
    ordered = OrderedImages(CachedImages(data.cache, data.split.test), rank=1, world_size=3)
    assert len(ordered) == 4
    at_once, single = ordered.__getitems__(range(4)), collate([ordered[index] for index in range(4)])
    assert torch.equal(at_once["image"], single["image"])
    assert at_once["subject"] == single["subject"] == [*data.split.test[1::3], ""]


def test_a_batch_can_be_changed_without_changing_the_cache(cache):
    batch = next(iter(module(cache).train_dataloader()))
    batch["image"].fill_(-1)
    assert ImageDataModule(str(cache)).cache.images().min() >= 0


@pytest.mark.parametrize("workers", [0, 2])
def test_crops_depend_on_seed_and_epoch_alone(cache, workers, monkeypatch):
    settings = {"crop_flip": CropFlip(2, 0.5)}
    reference = module(cache, **settings).train_dataloader()
    subjects, images = epoch_of(reference, 1)
    torch.manual_seed(workers)
    state = torch.get_rng_state()
    again, found = epoch_of(module(cache, num_workers=workers, batch_size=5, **settings).train_dataloader(), 1)
    assert again == subjects
    assert torch.equal(found, images)
    assert torch.equal(torch.get_rng_state(), state)
    plain = epoch_of(module(cache).train_dataloader(), 1)[1]
    assert not torch.equal(plain, images)
    assert not torch.equal(epoch_of(reference, 0)[1], images)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert epoch_of(module(cache, **settings).train_dataloader(), 1)[0] != subjects


def test_each_image_of_each_epoch_has_a_key_of_its_own(cache, monkeypatch):
    keys, draw = [], CropFlip.draw
    monkeypatch.setattr(CropFlip, "draw", lambda self, key: keys.append(tuple(key)) or draw(self, key))
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    loader = module(cache, crop_flip=CropFlip()).train_dataloader()
    for epoch in (0, 3):
        epoch_of(loader, epoch)
    length = len(loader.dataset.images)
    assert keys == [(5, epoch, index) for epoch in (0, 3) for index in range(length)]


def test_only_training_images_are_cropped(cache):
    data = module(cache, crop_flip=CropFlip(2, 0.5))
    opened = data.cache
    for loader in (data.val_dataloader(), data.test_dataloader()):
        for batch in loader:
            for image, subject in zip(batch["image"], batch["subject"], strict=True):
                np.testing.assert_array_equal(image, opened.images()[opened.subjects.index(subject)])


def test_ten_views_are_the_middle_the_corners_and_their_mirror_images():
    images = torch.arange(2 * 2 * 6 * 7).reshape(2, 2, 6, 7)
    views = ten_views(images, (4, 3))
    assert views.shape == (2, 10, 2, 4, 3)
    middle, corner = images[:, :, 1:5, 2:5], images[:, :, 2:, 4:]
    assert torch.equal(views[:, 0], middle)
    assert torch.equal(views[:, 4], corner)
    assert torch.equal(views[:, 1], images[:, :, :4, :3])
    assert torch.equal(views[:, 2], images[:, :, :4, 4:])
    assert torch.equal(views[:, 3], images[:, :, 2:, :3])
    assert torch.equal(views[:, 5:], torch.from_numpy(views[:, :5].numpy()[..., ::-1].copy()))


def test_the_first_of_ten_crops_is_the_image_itself(cache):
    plain, ten = (next(iter(module(cache, test_crops=n, test_padding=3).test_dataloader())) for n in (1, 10))
    assert ten["image"].shape == (6, 10, 1, 9, 7)
    assert torch.equal(ten["image"][:, 0], plain["image"])
    assert torch.equal(ten["image"][:, 5], plain["image"].flip(-1))
    assert not ten["image"][:, 1, :, :3].any()  # what was added above and on the left
    assert torch.equal(ten["image"][:, 1, :, 3:, 3:], plain["image"][..., :6, :4])
    assert next(iter(module(cache, test_crops=10).val_dataloader()))["image"].ndim == 4


@pytest.mark.parametrize("settings", [{"crop_flip": CropFlip()}, {"test_crops": 10}])
def test_masks_are_not_cropped_without_their_images(tmp_path, settings):
    prepare(str(write_pairs(tmp_path / "raw")), output=str(tmp_path / "cache"), size=[16, 16], workers=1)
    with pytest.raises(PocketError, match=f"{next(iter(settings))}: is for images of known class"):
        ImageDataModule(str(tmp_path / "cache"), **settings)


@pytest.mark.parametrize("settings", [{"test_crops": 5}, {"test_crops": 10, "test_padding": -1}])
def test_crops_of_a_test_that_make_no_sense(cache, settings):
    with pytest.raises(PocketError, match="test_crops: found"):
        ImageDataModule(str(cache), **settings)


def test_top_errors_by_brute_force():
    rng = np.random.default_rng(0)
    probability = np.round(rng.random((300, 8)), 1)  # with ties
    target = rng.integers(0, 8, 300)
    for k in (1, 2, 5, 8):
        wrong = 0
        for row, true in zip(probability, target, strict=True):
            ranked = sorted(range(8), key=lambda index: (-row[index], index))
            wrong += true not in ranked[:k]
        assert top_error(probability, target, k) == pytest.approx(wrong / 300)
    assert top_error(probability, target, 1) == pytest.approx(1 - (probability.argmax(1) == target).mean())
    assert top_error(probability, target, 8) == 0


@pytest.mark.parametrize(("rows", "k", "message"), [(0, 1, "0 images"), (3, 0, "expected 1 to 4"), (3, 5, "1 to 4")])
def test_top_errors_of_nothing(rows, k, message):
    with pytest.raises(PocketError, match=message):
        top_error(np.zeros((rows, 4)), np.zeros(rows, int), k)


class Reads(Classifier):
    """Reads its logits off the first row of the image."""

    def __init__(self, in_channels: int = 1, out_channels: int = 7) -> None:
        super().__init__(in_channels, out_channels, 2, divisor=(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0, 0]


def scores_of(items: list[dict], tmp_path: Path) -> dict[str, float]:
    info = DatasetInfo(["grey"], [f"class {n}" for n in range(7)], [1, 7]).to_dict()
    task = ClassificationTask(Reads(), info)
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    return trainer.test(task, DataLoader(items, 4), verbose=False)[0]


def test_ten_crops_average_probabilities(tmp_path):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(12, 10, 1, 1, 7, generator=generator)
    target = torch.arange(12) % 7
    items = [{"image": logits[n], "target": int(target[n]), "subject": f"s{n}"} for n in range(12)]
    items.append(items[0] | {"subject": ""})  # repeated to keep processes in step
    scores = scores_of(items, tmp_path)
    mean = logits.double().flatten(2).softmax(2).mean(1).numpy()
    first = logits[:, 0].flatten(1).double().softmax(1).numpy()
    for k in (1, 5):
        assert scores[f"test/top{k}_error"] == pytest.approx(top_error(first, target.numpy(), k))
        assert scores[f"test/top{k}_error_10crop"] == pytest.approx(top_error(mean, target.numpy(), k))
    assert scores["test/top1_error"] == pytest.approx(1 - scores["test/accuracy"])
    assert scores["test/top1_error_10crop"] != scores["test/top1_error"]
    one = scores_of([item | {"image": item["image"][0]} for item in items], tmp_path)
    assert not [name for name in one if "crop" in name]
    assert one == {name: value for name, value in scores.items() if "crop" not in name}


def test_top_5_errors_need_more_than_five_classes(tmp_path):
    from lightning_pocket.networks import EncoderClassifier

    info = DatasetInfo(["grey"], ["a", "b"], [16, 16]).to_dict()
    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    task = ClassificationTask(EncoderClassifier(1, 2, depth=2), info)
    scores = trainer.test(task, DataLoader(disc_images(8, 2, 16, 2), 4), verbose=False)[0]
    assert [name for name in scores if "error" in name] == ["test/top1_error"]
