"""TorchIO's Queue as a patch source, reading the same cache with the same samplers and transforms."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchio as tio
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, Sampler
from typing_extensions import override

from .cache import CachedCase
from .patches import Item, from_subject
from .preprocess import IGNORE_INDEX
from .sampling import PatchSampler, Voxels, patch_start


@dataclass(frozen=True)
class QueueSettings:
    """How ``patch_source: queue`` works; see ``torchio.Queue``.

    Args:
        length: Patches held in memory.
        samples_per_volume: Patches cut from a volume each time it is loaded.
        num_workers: Processes that load and transform whole volumes.
    """

    length: int = 32
    samples_per_volume: int = 8
    num_workers: int = 0


class QueuePatches(Dataset[Item]):
    """A TorchIO queue that gives the same items as the memory-mapped source.

    Args:
        cases: Cases to draw from.
        patch_size: Voxels of a patch along D, H, W.
        sampler: Chooses where patches are cut.
        transform: TorchIO transform; the queue applies it to whole volumes, before patches are cut.
        settings: Length of the queue, and so on.
        rank: This process.
        world_size: Number of processes; each loads its own share of the volumes.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        patch_size: Sequence[int],
        sampler: PatchSampler,
        transform: tio.Transform | None = None,
        settings: QueueSettings = QueueSettings(),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        transforms = [_PadTo(patch_size), *([transform] if transform else [])]
        subjects = tio.SubjectsDataset([_lazy_subject(case) for case in cases], transform=tio.Compose(transforms))
        self.subject_sampler: DistributedSampler[tio.Subject]
        self.subject_sampler = DistributedSampler(subjects, world_size, rank, drop_last=world_size > 1)
        self.queue = tio.Queue(
            subjects,
            max_length=settings.length,
            samples_per_volume=settings.samples_per_volume,
            sampler=_SubjectPatches(sampler, patch_size),
            subject_sampler=self.subject_sampler,
            num_workers=settings.num_workers,
            shuffle_subjects=False,
            start_background=False,
        )
        self.length = len(self.subject_sampler) * settings.samples_per_volume

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Item:
        """Return the next patch of the queue, whatever the index."""
        return from_subject(self.queue[index])


class QueueSampler(Sampler[int]):
    """Indices for a loader over a queue; passes the epoch on to the sampler of subjects, which Lightning cannot see."""

    def __init__(self, patches: QueuePatches) -> None:
        self.patches = patches

    def set_epoch(self, epoch: int) -> None:
        """Let the queue draw the subjects in another order."""
        self.patches.subject_sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.patches)))

    def __len__(self) -> int:
        return len(self.patches)


class _SubjectPatches(tio.data.sampler.PatchSampler):
    """Our samplers behind TorchIO's interface."""

    def __init__(self, sampler: PatchSampler, patch_size: Sequence[int]) -> None:
        super().__init__(tuple(patch_size))
        self.sampler = sampler

    @override
    def _generate_patches(self, subject: tio.Subject, num_patches: int | None = None) -> Generator[tio.Subject]:
        size = [int(side) for side in self.patch_size]
        rng = np.random.default_rng(int(torch.randint(2**63 - 1, (1,))))
        shape = subject.spatial_shape
        foreground = _foreground(subject["label"].data[0].numpy().astype(np.uint8))
        made = 0
        while num_patches is None or made < num_patches:
            start = patch_start(self.sampler.centre(shape, foreground, rng), shape, size)
            yield self.extract_patch(subject, (start[0], start[1], start[2]))
            made += 1


def _foreground(label: NDArray[np.uint8]) -> Voxels:
    """Labelled voxels of a transformed volume: the cache's list no longer fits after a flip or an affine."""
    voxels = np.flatnonzero((label != 0) & (label != IGNORE_INDEX))
    classes = label.ravel()[voxels]
    order = np.argsort(classes, kind="stable")
    indices = np.unravel_index(voxels[order], label.shape)
    return np.stack([classes[order], *indices], axis=1).astype(np.int32)


class _PadTo(tio.SpatialTransform):
    """Zero-pads volumes smaller than the patch, as the other source does: TorchIO's samplers refuse them."""

    def __init__(self, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)

    @override
    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        missing = [max(size - side, 0) for size, side in zip(self.patch_size, subject.spatial_shape, strict=True)]
        if not any(missing):
            return subject
        return tio.Pad(tuple(part for gap in missing for part in (gap // 2, gap - gap // 2)))(subject)


def _lazy_subject(case: CachedCase) -> tio.Subject:
    return tio.Subject(
        image=tio.ScalarImage(case.folder / "image.npy", reader=_Reader(tuple(case.spacing))),
        label=tio.LabelMap(case.folder / "label.npy", reader=_Reader(tuple(case.spacing))),
        subject=case.subject,
    )


@dataclass(frozen=True)
class _Reader:
    """Reads an array of the cache for TorchIO; a class, since a queue's workers must be able to receive it."""

    spacing: tuple[float, ...]

    def __call__(self, path: Path) -> tuple[Tensor, NDArray[np.float64]]:
        array = torch.from_numpy(np.load(path))
        return (array if array.ndim == 4 else array[None]), np.diag([*self.spacing, 1.0])
