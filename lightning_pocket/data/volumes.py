"""The data module for 3D images: patches for training, patches or whole volumes for validation, volumes for testing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import DatasetInfo

from .cache import Cache, CachedCase
from .loader_stages import LoaderStage, delivery_stages, patch_stages
from .loader_workers import MOST_WORKERS, Workers, training_device, worker_options
from .module import PreparedDataModule, run_seed
from .on_device.apply import augment
from .patches import Item, KeySampler, PatchDataset, VolumeDataset, as_is, one_case
from .queue import QueuePatches, QueueSampler, QueueSettings
from .sampling import ForegroundSampler, PatchSampler
from .splits import SplitSettings

log = logging.getLogger(__name__)
_VALIDATION_STREAM = 1
#: Most workers that ``num_workers: auto`` lets read whole volumes, each of which is worth many patches.
_VOLUME_WORKERS = 2


class VolumeDataModule(PreparedDataModule):
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
        augment_on: Who applies them: TorchIO in the ``loader``, or the ``device``, for whole batches and with adjacent
            spatial transforms in one resampling. The same seed draws the same parameters on both.
        patch_source: ``memory_map`` reads only the voxels of a patch; ``queue`` is TorchIO's Queue.
        queue: Settings of ``patch_source: queue``.
        validation: Validate on one patch per case, or on whole volumes with a sliding window.
        num_workers: Processes that prepare batches; 0 prepares them in the training process, ``auto`` chooses by
            device, cores and memory.
        prefetch_factor: Batches that each of these processes prepares ahead.
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
        augment_on: Literal["loader", "device"] = "loader",
        patch_source: Literal["memory_map", "queue"] = "memory_map",
        queue: QueueSettings = QueueSettings(),
        validation: Literal["patches", "volumes"] = "volumes",
        num_workers: Workers = "auto",
        prefetch_factor: int = 2,
    ) -> None:
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise PocketError(
                f"data.init_args.patch_size: expected three positive numbers of voxels (D, H, W), got {patch_size}."
            )
        if augment_on == "device" and patch_source == "queue":
            raise PocketError(
                "data.init_args.augment_on: device needs patch_source memory_map; a queue transforms whole volumes "
                "before it cuts them. Leave out --config queue, or set augment_on: loader."
            )
        self.cache = Cache.open(cache)
        super().__init__(self.cache, batch_size, split, augmentation, augment_on, num_workers, prefetch_factor)
        self.patch_size = patch_size
        self.patches_per_epoch = patches_per_epoch
        self.sampler = sampler
        self.patch_source = patch_source
        self.queue = queue
        self.validation = validation

    @property
    @override
    def info(self) -> dict[str, Any]:
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

    @override
    def items_of(self, stage: Literal["train", "val", "test"]) -> str:
        cut = stage == "train" or (stage == "val" and self.validation == "patches")
        return "patches" if cut else super().items_of(stage)

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._need(self.split.train, "train")
            self._say_if_padded()

    @override
    def train_dataloader(self) -> DataLoader[Item]:
        rank, world_size = self._process()
        if self.patch_source == "queue":
            cases = self._cases(self.split.train)
            patches = QueuePatches(cases, self.patch_size, self.sampler, self.transform, self.queue, rank, world_size)
            return self._loader(patches, QueueSampler(patches))
        dataset = self._patches()
        epoch = self.trainer.current_epoch if self.trainer else 0
        length = self.patches_per_epoch or len(dataset.cases)
        return self._loader(dataset, KeySampler(length, epoch, rank, world_size))

    @override
    def val_dataloader(self) -> DataLoader[Item] | list[DataLoader[Item]]:
        cases = self._cases(self.split.val)
        if not cases:
            return []
        if self.validation == "volumes":
            return self._volumes(cases)
        dataset = PatchDataset(cases, self.patch_size, self.sampler, seed=run_seed(), stream=_VALIDATION_STREAM)
        return self._loader(dataset, _FixedEpoch(len(cases), 0, *self._process()))

    @override
    def test_dataloader(self) -> DataLoader[Item]:
        self._need(self.split.test, "test")
        return self._volumes(self._cases(self.split.test), original=True)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a batch of training patches, where that was left to the device."""
        recipes = batch.pop("recipes", None)
        if recipes:
            augment(batch["image"], batch["label"], recipes)
        return batch

    def loader_workers(self) -> int:
        """Return how many processes prepare training batches; 0 where the training process does."""
        return int(self._workers(self._batch_voxels())["num_workers"])

    def loader_stages(self) -> list[LoaderStage]:
        """Return what is done to a patch on its way to the network, for ``pocket profile --data-only``."""
        if self.patch_source == "queue":
            raise PocketError("data.init_args.patch_source: a queue cannot be timed by stage; take memory_map.")
        self._need(self.split.train, "train")
        dataset = self._patches()
        batch = dict(dataset.__getitems__([(0, index) for index in range(self.batch_size)]))
        delivery = delivery_stages(batch, self.loader_workers(), training_device(self.trainer), self.drawer)
        return [*patch_stages(dataset, self.batch_size), *delivery]

    def _patches(self) -> PatchDataset:
        cases = self._cases(self.split.train)
        return PatchDataset(cases, self.patch_size, self.sampler, self.transform, run_seed(), drawer=self.drawer)

    def _batch_voxels(self) -> float:
        return self.batch_size * float(np.prod(self.patch_size))

    def _cases(self, subjects: Sequence[str]) -> list[CachedCase]:
        return [self.cache.case(subject) for subject in subjects]

    def _volumes(self, cases: list[CachedCase], original: bool = False) -> DataLoader[Item]:
        largest = max(float(np.prod(case.shape)) for case in cases)
        return DataLoader(
            VolumeDataset(cases, *self._process(), original=original),
            batch_size=1,
            **self._workers(largest, _VOLUME_WORKERS),
            collate_fn=one_case,
            generator=torch.Generator(),
        )

    def _workers(self, voxels: float, most: int = MOST_WORKERS) -> dict[str, Any]:
        """Return the arguments of a loader whose batches have so many voxels."""
        batch_mib = voxels * (4 * self.in_channels + 1) / 2**20  # float32 channels and a label of a byte
        return worker_options(self.num_workers, self.prefetch_factor, batch_mib, self.trainer, most)

    def _loader(self, dataset: Dataset[Item], sampler: Sampler[Any]) -> DataLoader[Item]:
        # A queue has workers of its own.
        queued = isinstance(dataset, QueuePatches)
        options = {} if queued else self._workers(self._batch_voxels())
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            **options,
            persistent_workers=options.get("num_workers", 0) > 0,
            collate_fn=as_is if isinstance(dataset, PatchDataset) else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(run_seed()),  # the global one must not depend on the workers
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


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))
