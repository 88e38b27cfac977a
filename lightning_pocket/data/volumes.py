"""The data module for 3D images: patches for training, patches or whole volumes for validation, volumes for testing."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torchio as tio
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import DatasetInfo

from .cache import Cache, CachedCase
from .patches import Item, KeySampler, PatchDataset, VolumeDataset, as_is, one_case
from .queue import QueuePatches, QueueSampler, QueueSettings
from .sampling import ForegroundSampler, PatchSampler
from .splits import Split, SplitSettings, split_subjects

log = logging.getLogger(__name__)
_VALIDATION_STREAM = 1


class VolumeDataModule(LightningDataModule):
    """Serves what ``pocket prepare`` wrote.

    Every random number is keyed by the seed (``seed_everything``), the epoch and the index of the patch. So the
    default source gives the same patches with any number of workers, and a run that was killed continues as if it
    had not been.

    Args:
        cache: Folder that ``pocket prepare`` wrote.
        patch_size: Voxels of a patch along D, H, W.
        batch_size: Patches per step and process.
        split: Which cases train, validate and test.
        patches_per_epoch: Patches per epoch over all processes; null gives one per training case.
        sampler: Where patches are cut.
        augmentation: TorchIO transforms of the training patches, in order.
        patch_source: ``memory_map`` reads only the voxels of a patch; ``queue`` is TorchIO's Queue.
        queue: Settings of ``patch_source: queue``.
        validation: Validate on one patch per case, or on whole volumes with a sliding window.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
    """

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        cache: str,
        patch_size: list[int] = [128, 128, 128],  # noqa: B006 (never changed)
        batch_size: int = 2,
        split: SplitSettings = SplitSettings(),
        patches_per_epoch: int | None = None,
        sampler: PatchSampler = ForegroundSampler(),
        augmentation: list[tio.Transform] | None = None,
        patch_source: Literal["memory_map", "queue"] = "memory_map",
        queue: QueueSettings = QueueSettings(),
        validation: Literal["patches", "volumes"] = "volumes",
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise PocketError(
                f"data.init_args.patch_size: expected three positive numbers of voxels (D, H, W), got {patch_size}."
            )
        if batch_size < 1:
            raise PocketError(f"data.init_args.batch_size: expected at least 1, got {batch_size}.")
        if num_workers < 0:
            raise PocketError(f"data.init_args.num_workers: expected 0 or more, got {num_workers}.")
        self.cache = Cache.open(cache)
        self.patch_size = patch_size
        self.batch_size = batch_size
        self.split_settings = split
        self.patches_per_epoch = patches_per_epoch
        self.sampler = sampler
        self.transform = tio.Compose(augmentation, copy=False) if augmentation else None
        self.patch_source = patch_source
        self.queue = queue
        self.validation = validation
        self.num_workers = num_workers
        self.split: Split = split_subjects(self.cache.folds, split)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self.cache.channels)

    @property
    def num_classes(self) -> int:
        """Classes of the labels, background included."""
        return len(self.cache.classes)

    @property
    def info(self) -> dict[str, Any]:
        """Return what the task must know of the data, as plain types."""
        cache = self.cache
        return DatasetInfo(
            cache.channels,
            cache.classes,
            list(self.patch_size),
            cache.spacing,
            cache.preprocessing,
            cache.ignore_index,
            cache.regions,
        ).to_dict()

    @property
    def record(self) -> dict[str, Any]:
        """Return what identifies the data of a run: the cache's hash and the cases of each split."""
        return {"cache": str(self.cache.path.resolve()), "hash": self.cache.hash, "split": self.split.to_dict()}

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._need(self.split.train, "train")
            self._say_if_padded()

    @override
    def train_dataloader(self) -> DataLoader[Item]:
        cases = self._cases(self.split.train)
        rank, world_size = self._process()
        if self.patch_source == "queue":
            patches = QueuePatches(cases, self.patch_size, self.sampler, self.transform, self.queue, rank, world_size)
            return self._loader(patches, QueueSampler(patches), num_workers=0)
        dataset = PatchDataset(cases, self.patch_size, self.sampler, self.transform, _seed())
        epoch = self.trainer.current_epoch if self.trainer else 0
        length = self.patches_per_epoch or len(cases)
        return self._loader(dataset, KeySampler(length, epoch, rank, world_size))

    @override
    def val_dataloader(self) -> DataLoader[Item] | list[DataLoader[Item]]:
        cases = self._cases(self.split.val)
        if not cases:
            return []
        if self.validation == "volumes":
            return self._volumes(cases)
        dataset = PatchDataset(cases, self.patch_size, self.sampler, seed=_seed(), stream=_VALIDATION_STREAM)
        return self._loader(dataset, _FixedEpoch(len(cases), 0, *self._process()))

    @override
    def test_dataloader(self) -> DataLoader[Item]:
        self._need(self.split.test, "test")
        return self._volumes(self._cases(self.split.test), original=True)

    def _cases(self, subjects: Sequence[str]) -> list[CachedCase]:
        return [self.cache.case(subject) for subject in subjects]

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _volumes(self, cases: list[CachedCase], original: bool = False) -> DataLoader[Item]:
        return DataLoader(
            VolumeDataset(cases, *self._process(), original=original),
            batch_size=1,
            num_workers=self.num_workers,
            collate_fn=one_case,
            generator=torch.Generator(),
        )

    def _loader(
        self, dataset: Dataset[Item], sampler: Sampler[Any], num_workers: int | None = None
    ) -> DataLoader[Item]:
        workers = self.num_workers if num_workers is None else num_workers
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=as_is if isinstance(dataset, PatchDataset) else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(_seed()),  # the global one must not depend on the workers
        )

    def _need(self, subjects: Sequence[str], split: str) -> None:
        if not subjects:
            raise PocketError(
                f"data.init_args.split: no case is left to {split} "
                f"(fold {self.split_settings.fold} of {len(self.cache.subjects)} cases in {self.cache.path}). "
                "Choose another fold, or give a file of folds."
            )

    def _say_if_padded(self) -> None:
        shapes = [case.shape for case in self._cases(self.split.train)]
        small = [
            shape for shape in shapes if any(side < size for side, size in zip(shape, self.patch_size, strict=True))
        ]
        if small and self._process()[0] == 0:
            log.warning(
                "patch_size %s is larger than %d of the %d training images (one has %s voxels): they are padded with "
                "zeros.",
                _times(self.patch_size),
                len(small),
                len(shapes),
                _times(min(small)),
            )


class _FixedEpoch(KeySampler):
    """Validates on the same patches in every epoch: Lightning's calls of ``set_epoch`` change nothing."""

    @override
    def set_epoch(self, epoch: int) -> None:
        return


def _seed() -> int:
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
