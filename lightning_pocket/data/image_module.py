"""The data module for 2D images of known class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torchio as tio
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import DatasetInfo

from .images2d.cache import ImageCache
from .images2d.dataset import CachedImages, ImageItem, OrderedImages, TrainingImages
from .patches import KeySampler
from .splits import Split, SplitSettings, split_subjects


class ImageDataModule(LightningDataModule):
    """Serves 2D images that ``pocket prepare`` wrote, as ``types.ImageBatch``.

    Every random number is keyed by the seed (``seed_everything``), the epoch and the index of the image. So the batches
    are the same with any number of workers, and a run that was killed continues as if it had not been.

    Args:
        cache: Folder that ``pocket prepare`` wrote.
        batch_size: Images per step and process.
        split: Which images train, validate and test; validation and training have their share of each class.
        augmentation: TorchIO transforms of the training images, in order. An image is a volume ``(C, 1, H, W)`` of one
            slice with pixels of 1 mm: its axes are 1 (H) and 2 (W), and rotations are about axis 0.
        class_balance: Let each class come equally often; an epoch keeps its number of images.
        images_per_epoch: Images per epoch over all processes; null gives each training image once.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
    """

    def __init__(
        self,
        cache: str,
        batch_size: int = 32,
        split: SplitSettings = SplitSettings(max_val="all"),
        augmentation: list[tio.Transform] | None = None,
        class_balance: bool = False,
        images_per_epoch: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise PocketError(f"data.init_args.batch_size: expected at least 1, got {batch_size}.")
        if images_per_epoch is not None and images_per_epoch < 1:
            raise PocketError(f"data.init_args.images_per_epoch: expected at least 1, got {images_per_epoch}.")
        if num_workers < 0:
            raise PocketError(f"data.init_args.num_workers: expected 0 or more, got {num_workers}.")
        self.cache = ImageCache.open(cache)
        self.batch_size = batch_size
        self.split_settings = split
        self.transform = tio.Compose(augmentation, copy=False) if augmentation else None
        self.class_balance = class_balance
        self.images_per_epoch = images_per_epoch
        self.num_workers = num_workers
        self.split: Split = split_subjects(self.cache.folds, split, self.cache.class_of)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self.cache.channels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.cache.classes)

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class."""
        counts = Counter(CachedImages(self.cache, self.split.train).targets)
        return [counts[index] for index in range(self.num_classes)]

    @property
    def info(self) -> dict[str, Any]:
        """Return what the task must know of the data, as plain types."""
        cache = self.cache
        return DatasetInfo(cache.channels, cache.classes, cache.size, preprocessing=cache.preprocessing).to_dict()

    @property
    def record(self) -> dict[str, Any]:
        """Return what identifies the data of a run: the cache's hash and the images of each split."""
        return {"cache": str(self.cache.path), "hash": self.cache.hash, "split": self.split.to_dict()}

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._need(self.split.train, "train")

    @override
    def train_dataloader(self) -> DataLoader[ImageItem]:
        images = CachedImages(self.cache, self.split.train)
        epoch = self.trainer.current_epoch if self.trainer else 0
        return DataLoader(
            TrainingImages(images, self.transform, _seed(), self.class_balance),
            sampler=KeySampler(self.images_per_epoch or len(images), epoch, *self._process()),
            **self._options(),
        )

    @override
    def val_dataloader(self) -> DataLoader[ImageItem] | list[DataLoader[ImageItem]]:
        return self._ordered(self.split.val) if self.split.val else []

    @override
    def test_dataloader(self) -> DataLoader[ImageItem]:
        self._need(self.split.test, "test")
        return self._ordered(self.split.test)

    def _ordered(self, subjects: Sequence[str]) -> DataLoader[ImageItem]:
        return DataLoader(OrderedImages(CachedImages(self.cache, subjects), *self._process()), **self._options())

    def _options(self) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "persistent_workers": self.num_workers > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator().manual_seed(_seed()),  # the global one must not depend on the workers
        }

    def _process(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _need(self, subjects: Sequence[str], split: str) -> None:
        if not subjects:
            raise PocketError(
                f"data.init_args.split: no image is left to {split} (fold {self.split_settings.fold} of "
                f"{len(self.cache.subjects)} images in {self.cache.path}). Choose another fold, or give a fold file."
            )


def _seed() -> int:
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
