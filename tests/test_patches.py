"""Patches, queues and loaders over a prepared data set."""

import numpy as np
import pytest
import torch
import torchio as tio

from lightning_pocket.data.augment import RandomAxisFlip, RandomVoxelBlur, to_subject
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.patches import KeySampler, PatchDataset, VolumeDataset
from lightning_pocket.data.queue import QueuePatches, QueueSampler, QueueSettings
from lightning_pocket.data.sampling import ForegroundSampler, UniformSampler
from lightning_pocket.data.volumes import VolumeDataModule

PATCH = [8, 16, 16]


@pytest.fixture
def cases(blobs_cache):
    cache = Cache.open(blobs_cache)
    return [cache.case(subject) for subject in cache.subjects]


def module(cache, **settings) -> VolumeDataModule:
    noise = [RandomAxisFlip(p=0.5), tio.RandomNoise(std=(0.1, 0.5))]
    return VolumeDataModule(str(cache), PATCH, 2, augmentation=noise, **settings)


def epoch_of(loader, epoch: int):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_batches_do_not_depend_on_the_number_of_workers(blobs_cache):
    batches = [epoch_of(module(blobs_cache, num_workers=workers).train_dataloader(), 3) for workers in (0, 2)]
    assert len(batches[0]) == len(batches[1]) > 2
    for single, parallel in zip(*batches, strict=True):
        assert single["subject"] == parallel["subject"]
        assert torch.equal(single["image"], parallel["image"])
        assert torch.equal(single["label"], parallel["label"])


def test_epochs_and_seeds_differ(cases):
    def images(seed: int, epoch: int) -> torch.Tensor:
        dataset = PatchDataset(cases, PATCH, ForegroundSampler(), seed=seed)
        return torch.stack([dataset[epoch, index]["image"] for index in range(4)])

    assert torch.equal(images(0, 0), images(0, 0))
    assert not torch.equal(images(0, 0), images(0, 1))
    assert not torch.equal(images(0, 0), images(1, 0))


def test_making_a_patch_leaves_the_global_random_numbers_alone(cases):
    dataset = PatchDataset(cases, PATCH, UniformSampler(), tio.RandomNoise())
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    dataset[0, 0]
    assert torch.equal(torch.rand(3), expected)


def test_every_case_is_visited_once_per_round(cases):
    dataset = PatchDataset(cases, PATCH, UniformSampler())
    subjects = [dataset[7, index]["subject"] for index in range(2 * len(cases))]
    assert sorted(subjects[: len(cases)]) == sorted(case.subject for case in cases)
    assert sorted(subjects[len(cases) :]) == sorted(case.subject for case in cases)
    assert subjects[: len(cases)] != subjects[len(cases) :]


def test_a_patch_is_cut_from_its_case(cases):
    item = PatchDataset(cases, PATCH, ForegroundSampler())[0, 0]
    case = next(case for case in cases if case.subject == item["subject"])
    windows = np.lib.stride_tricks.sliding_window_view(case.image()[0], PATCH)
    matches = (windows == item["image"][0].numpy()).all(axis=(3, 4, 5))
    assert matches.sum() == 1
    corner = np.argwhere(matches)[0]
    label = case.label()[tuple(slice(first, first + size) for first, size in zip(corner, PATCH, strict=True))]
    np.testing.assert_array_equal(item["label"].numpy(), label)


def test_processes_share_an_epoch_without_overlap_and_take_equal_steps():
    shares = [list(KeySampler(11, epoch=4, rank=rank, world_size=3)) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert sorted(key for share in shares for key in share) == [(4, index) for index in range(9)]


def test_volumes_are_shared_with_an_uncounted_filler(cases):
    shares = [VolumeDataset(cases[:5], rank, 2) for rank in range(2)]
    names = [[share[index]["subject"] for index in range(len(share))] for share in shares]
    assert [len(share) for share in names] == [3, 3]
    assert names[1][-1] == ""
    assert sorted(name for share in names for name in share if name) == sorted(c.subject for c in cases[:5])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("patch", [PATCH, [16, 16, 24]])
def test_the_queue_serves_the_same_kind_of_items(cases, workers, patch):
    settings = QueueSettings(length=8, samples_per_volume=4, num_workers=workers)
    patches = QueuePatches(cases[:3], patch, ForegroundSampler(), RandomAxisFlip(p=1), settings)
    items = [patches[index] for index in QueueSampler(patches)]
    assert len(items) == 12
    for item in items:
        assert item["image"].shape == (1, *patch)
        assert item["image"].dtype == torch.float32
        assert item["label"].shape == tuple(patch)
        assert item["label"].dtype == torch.uint8
    subjects = [item["subject"] for item in items]
    assert {subject: subjects.count(subject) for subject in subjects} == {case.subject: 4 for case in cases[:3]}


def test_the_queue_is_deterministic_for_a_seed(blobs_cache):
    def batches() -> list[torch.Tensor]:
        torch.manual_seed(3)
        loader = module(blobs_cache, patch_source="queue", queue=QueueSettings(8, 2, 0)).train_dataloader()
        return [batch["image"] for batch in epoch_of(loader, 1)]

    for first, second in zip(batches(), batches(), strict=True):
        assert torch.equal(first, second)


def test_validation_patches_stay_the_same(blobs_cache):
    loader = module(blobs_cache, validation="patches").val_dataloader()
    first, second = epoch_of(loader, 0), epoch_of(loader, 5)
    assert torch.equal(first[0]["image"], second[0]["image"])


def test_info_is_plain_and_describes_the_data(blobs_cache):
    info = module(blobs_cache).info
    assert info["classes"] == ["background", "shell", "core"]
    assert info["channels"] == ["MRI"]
    assert info["patch_size"] == PATCH
    assert info["preprocessing"]


def random_patch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, 6, 7, 8, generator=generator), torch.randint(3, (6, 7, 8), generator=generator)


def test_axis_flip_flips_exactly_one_axis_of_image_and_label_alike():
    image, label = random_patch()
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        flipped = RandomAxisFlip(p=1)(to_subject(image, label, (1, 1, 1), "x"))
        axes = [a for a in range(3) if torch.equal(flipped["image"].data, image.flip(a + 1))]
        assert len(axes) == 1
        assert torch.equal(flipped["label"].data[0], label.flip(axes[0]))
        seen.add(axes[0])
    assert seen == {0, 1, 2}


def test_axis_flip_happens_with_its_probability():
    image, label = random_patch()
    torch.manual_seed(0)
    subject = to_subject(image, label, (1, 1, 1), "x")
    flip = RandomAxisFlip(p=0.15)
    share = np.mean([not torch.equal(flip(subject)["image"].data, image) for _ in range(600)])
    assert share == pytest.approx(0.15, abs=0.05)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (5.0, 0.8, 0.8)])
def test_voxel_blur_is_in_voxels_whatever_the_spacing(spacing):
    from scipy.ndimage import gaussian_filter

    image, label = random_patch()
    torch.manual_seed(0)
    blurred = RandomVoxelBlur(std=(0.5, 0.5))(to_subject(image, label, spacing, "x"))
    expected = gaussian_filter(image[0].numpy(), 0.5)
    np.testing.assert_allclose(blurred["image"].data[0].numpy(), expected, rtol=1e-5)
    assert torch.equal(blurred["label"].data[0], label)
