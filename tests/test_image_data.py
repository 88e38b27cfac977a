"""The data module for 2D images: batches, splits, augmentation, determinism."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchio as tio
import yaml
from image_datasets import write_classes, write_covidx
from interruption import kill_after
from scipy import ndimage

from lightning_pocket.cli import main
from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data import ImageDataModule, VolumeDataModule
from lightning_pocket.data.images2d.cache import ImageCache
from lightning_pocket.data.images2d.dataset import CachedImages, OrderedImages, TrainingImages, augment_masked
from lightning_pocket.data.splits import SplitSettings
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import configs_folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    """Twenty-four training and seven test images of 16 x 20 pixels, a third of them positive."""
    root = write_covidx(tmp_path_factory.mktemp("raw"), train=24, test=7)
    path = tmp_path_factory.mktemp("prepared") / "cache"
    prepare(str(root), output=str(path), size=[16, 20], workers=1)
    return path


def noisy() -> list[tio.Transform]:
    return [tio.RandomFlip(axes=[2], flip_probability=0.5), tio.RandomNoise(std=(0.1, 0.5))]


def epoch_of(loader, epoch: int = 0):
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return [name for batch in batches for name in batch["subject"]], torch.cat([batch["image"] for batch in batches])


def test_batches_and_what_the_task_is_told(cache):
    data = ImageDataModule(str(cache), batch_size=5)
    assert (data.in_channels, data.num_classes) == (1, 2)
    info = data.info
    assert (info["channels"], info["classes"]) == (["grey"], ["negative", "positive"])
    assert (info["patch_size"], info["spacing"]) == ([16, 20], None)
    assert info["preprocessing"]["normalization"] == "zscore"
    opened = ImageCache.open(cache)
    assert data.record["hash"] == opened.hash
    assert len(data.split.test) == 7
    assert len(data.split.val) == 2  # a tenth of 24 is three, but each patient has two images
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (5, 1, 16, 20)
    assert batch["image"].dtype == torch.float32
    assert batch["target"].dtype == torch.int64
    for image, target, subject in zip(*batch.values(), strict=True):
        row = opened.subjects.index(subject)
        np.testing.assert_array_equal(image, opened.images()[row])
        assert opened.classes[target] == opened.class_of[subject]
    counts = Counter(opened.class_of[subject] for subject in data.split.train)
    assert data.class_counts == [counts["negative"], counts["positive"]]


def test_an_epoch_visits_each_training_image_once_in_another_order(cache):
    data = ImageDataModule(str(cache), batch_size=4)
    first, second = (epoch_of(data.train_dataloader(), epoch)[0] for epoch in (0, 1))
    assert sorted(first) == sorted(second) == sorted(data.split.train)
    assert first != second


def test_an_epoch_can_have_any_number_of_images(cache):
    data = ImageDataModule(str(cache), batch_size=4, images_per_epoch=11, split=SplitSettings(0, train_fraction=0.3))
    members = len(data.split.train)
    assert members < 11
    subjects, _ = epoch_of(data.train_dataloader(), 0)
    assert len(subjects) == 11
    counts = Counter(subjects).values()
    assert len(counts) == members
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_epochs_depend_on_seed_and_epoch_alone(cache, workers, monkeypatch):
    reference = ImageDataModule(str(cache), 4, augmentation=noisy()).train_dataloader()
    epoch_of(reference, 0)
    subjects, images = epoch_of(reference, 1)
    torch.manual_seed(workers + 5)
    state = torch.get_rng_state()
    continued = ImageDataModule(str(cache), 4, augmentation=noisy(), num_workers=workers)
    found_subjects, found = epoch_of(continued.train_dataloader(), 1)
    assert found_subjects == subjects
    assert torch.equal(found, images)
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert epoch_of(ImageDataModule(str(cache), 4, augmentation=noisy()).train_dataloader(), 1)[0] != subjects


def test_a_continued_run_begins_with_its_epoch(cache):
    data = ImageDataModule(str(cache), 4, num_workers=0)
    data.trainer = SimpleNamespace(current_epoch=3, global_rank=0, world_size=1)
    assert data.train_dataloader().sampler.epoch == 3


def test_augmentation_changes_training_images_alone(cache):
    data = ImageDataModule(str(cache), 8, augmentation=noisy())
    opened = ImageCache.open(cache)
    subjects, images = epoch_of(data.train_dataloader())
    plain = np.stack([opened.images()[opened.subjects.index(subject)] for subject in subjects])
    assert np.abs(images.numpy() - plain).max() > 0.05
    batch = next(iter(data.val_dataloader()))
    for image, subject in zip(batch["image"], batch["subject"], strict=True):
        np.testing.assert_array_equal(image, opened.images()[opened.subjects.index(subject)])


def test_every_epoch_and_index_has_noise_of_its_own(cache):
    opened = ImageCache.open(cache)
    images = CachedImages(opened, opened.subjects)
    noise = TrainingImages(images, tio.RandomNoise(std=(0.2, 0.2)))
    added = set()
    for key in [(0, 0), (1, 0), (0, 1)]:
        item = noise[key]
        plain = images.item(images.subjects.index(item["subject"]))["image"]
        added.add(round(float((item["image"] - plain)[0, 0, 0]), 6))
    assert len(added) == 3


def preset() -> list[tio.Transform]:
    entries = yaml.safe_load((configs_folder() / "presets" / "augment_images.yaml").read_text(encoding="utf-8"))
    made = []
    for entry in entries["data"]["init_args"]["augmentation"]:
        arguments = entry["init_args"]
        if entry["class_path"] == "torchio.RandomAffine":
            # Beside the limits of the preset itself, both ends are the same: the transform is known.
            arguments = {"scales": [1, 1, 1.1, 1.1, 0.9, 0.9], "degrees": [10, 10, 0, 0, 0, 0], "p": 1} | {
                "translation": [0, 0, 3, 3, -2, -2]
            }
            assert [len(entry["init_args"][name]) for name in ("scales", "degrees", "translation")] == [6, 6, 6]
            assert entry["init_args"]["degrees"][2:] == [0, 0, 0, 0]
        made.append(getattr(tio, entry["class_path"].removeprefix("torchio."))(**arguments))
    return made


def test_the_preset_flips_left_and_right():
    flip = preset()[0]
    image = torch.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    found = {tuple(augment_masked(image, None, flip, seed)[0].flatten().tolist()) for seed in range(20)}
    assert found == {tuple(image.flatten().tolist()), tuple(image.flip(2).flatten().tolist())}


def test_the_preset_turns_in_the_plane():
    """Where the centre of a blob comes to lie that is turned, shifted and stretched, in this order."""
    rows, columns = np.mgrid[:61, :81]
    blob = np.exp(-((rows - 20.0) ** 2 + (columns - 55.0) ** 2) / 30).astype(np.float32)
    moved = augment_masked(torch.from_numpy(np.stack([blob, 2 * blob])), None, preset()[1], 0)[0].numpy()
    assert moved.shape == (2, 61, 81)
    np.testing.assert_allclose(moved[1], 2 * moved[0], rtol=1e-5, atol=1e-6)
    assert 0.9 < moved[0].sum() / (blob.sum() * 1.1 * 0.9) < 1.1
    centre = np.array([30.0, 40.0])
    angle = np.deg2rad(10)
    candidates = []
    for sign in (1, -1):
        turn = np.array([[np.cos(angle), -sign * np.sin(angle)], [sign * np.sin(angle), np.cos(angle)]])
        candidates.append(centre + np.array([1.1, 0.9]) * (turn @ (np.array([20, 55]) - centre) + [3, -2]))
    found = np.array(ndimage.center_of_mass(moved[0]))
    assert min(np.abs(found - place).max() for place in candidates) < 0.1, (found, candidates)


def test_a_preset_s_image_without_contrast_stays_so():
    ones = torch.ones(1, 32, 32)
    for seed in range(5):
        assert torch.allclose(augment_masked(ones, None, preset()[1], seed)[0], ones, atol=1e-5)


def test_classes_come_equally_often(tmp_path):
    root = write_classes(tmp_path / "raw", {"rare": 4, "often": 36})
    prepare(str(root), output=str(tmp_path / "cache"), size=[4, 4], workers=1)
    split = SplitSettings(fold=None, val_fraction=0.0)
    data = ImageDataModule(str(tmp_path / "cache"), 8, split, class_balance=True)
    subjects, _ = epoch_of(data.train_dataloader())
    counts = Counter(subject.split("_")[0] for subject in subjects)
    assert counts == {"rare": 20, "often": 20}
    assert set(Counter(s for s in subjects if s.startswith("rare")).values()) == {5}
    assert set(Counter(s for s in subjects if s.startswith("often")).values()) == {1}
    plain = ImageDataModule(str(tmp_path / "cache"), 8, split)
    assert Counter(s.split("_")[0] for s in epoch_of(plain.train_dataloader())[0]) == {"rare": 4, "often": 36}


def test_processes_share_the_images(cache):
    opened = ImageCache.open(cache)
    subjects = opened.subjects[:7]
    shares = [OrderedImages(CachedImages(opened, subjects), rank, 3) for rank in range(3)]
    assert {len(share) for share in shares} == {3}
    seen = [[share[index]["subject"] for index in range(3)] for share in shares]
    assert sorted(name for names in seen for name in names if name) == sorted(subjects)
    assert [names.count("") for names in seen] == [0, 1, 1]
    data = ImageDataModule(str(cache), 4, num_workers=0)
    parts = []
    for rank in range(2):
        data.trainer = SimpleNamespace(current_epoch=0, global_rank=rank, world_size=2)
        parts.append(epoch_of(data.train_dataloader())[0])
    assert len(parts[0]) == len(parts[1]) == len(data.split.train) // 2
    assert not set(parts[0]) & set(parts[1])


def test_validation_and_test_come_in_order(cache):
    data = ImageDataModule(str(cache), 4)
    for loader, expected in ((data.val_dataloader(), data.split.val), (data.test_dataloader(), data.split.test)):
        assert [name for batch in loader for name in batch["subject"]] == list(expected)
    nothing = ImageDataModule(str(cache), 4, SplitSettings(val_fraction=0.0))
    assert nothing.val_dataloader() == []


def test_workers_receive_no_copy_of_the_images(cache):
    dataset = TrainingImages(CachedImages(ImageCache.open(cache), ImageCache.open(cache).subjects))
    assert dataset[0, 0]["image"].shape == (1, 16, 20)
    assert len(pickle.dumps(dataset)) < (cache / "images.npy").stat().st_size / 2
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[0, 3]["image"], dataset[0, 3]["image"])


def test_a_fraction_of_the_training_images(cache):
    whole, half = ImageDataModule(str(cache)), ImageDataModule(str(cache), split=SplitSettings(0, train_fraction=0.5))
    assert set(half.split.train) < set(whole.split.train)
    assert (half.split.val, half.split.test) == (whole.split.val, whole.split.test)
    assert half.class_counts == [-(-count // 2) for count in whole.class_counts]


def test_volumes_have_fractions_too(blobs_cache):
    from lightning_pocket.data import VolumeDataModule

    data = VolumeDataModule(str(blobs_cache), [8, 16, 16], split=SplitSettings(train_fraction=0.5))
    whole = VolumeDataModule(str(blobs_cache), [8, 16, 16])
    assert len(whole.split.train) == 7
    assert len(data.split.train) == 4
    assert data.record["split"]["train"] == list(data.split.train)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1"),
        ({"num_workers": -1}, "num_workers: expected 0 or more"),
        ({"images_per_epoch": 0}, "images_per_epoch: expected at least 1"),
        ({"split": SplitSettings(train_fraction=2.0)}, "train_fraction: is 2.0"),
    ],
)
def test_wrong_settings_are_refused(cache, settings, message):
    with pytest.raises(PocketError, match=message):
        ImageDataModule(str(cache), **settings)


def test_nothing_to_test_is_said(tmp_path):
    root = write_classes(tmp_path / "raw", {"a": 5, "b": 5})
    prepare(str(root), output=str(tmp_path / "cache"), size=[4, 4], workers=1)
    with pytest.raises(PocketError, match="no image is left to test"):
        ImageDataModule(str(tmp_path / "cache"), split=SplitSettings(fold=None)).test_dataloader()


def test_the_config_is_the_module_s_default():
    config = yaml.safe_load((configs_folder() / "data" / "images.yaml").read_text(encoding="utf-8"))
    assert config["class_path"] == "lightning_pocket.data.ImageDataModule"
    assert SplitSettings(**config["init_args"]["split"]) == SplitSettings(max_val="all")
    assert config["init_args"]["batch_size"] == 32


@pytest.mark.e2e
def test_a_killed_run_learns_the_same(cache, tmp_path):
    def options(run, *more):
        return [
            *["fit", "--config=classify_images", "--config=pocket", "--config=augment_images"],
            f"--run_dir={run}",
            f"--data.init_args.cache={cache}",
            "--data.init_args.batch_size=8",
            "--model.init_args.network.init_args.depth=2",
            "--model.init_args.network.init_args.widths.base=4",
            "--trainer.max_epochs=2",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            *more,
        ]

    main(options(tmp_path / "whole"))
    kill_after(options(tmp_path / "killed"), saves=1)
    main(options(tmp_path / "killed", "--data.init_args.num_workers=1"))
    weights = [
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for run in ("whole", "killed")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_module_for_volumes_says_what_the_cache_is(cache):
    with pytest.raises(
        PocketError, match="is a cache of images with classes; train on it with --config classify_images"
    ):
        VolumeDataModule(str(cache))
