"""The data module for 2D images of known class."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import DatasetInfo

from .images2d.cache import ImageCache
from .images2d.dataset import CachedImages, ImageItem, OrderedImages, TrainingImages, collate
from .loader_stages import LoaderStage, delivery_stages, image_stages
from .loader_workers import Workers, check_loader, training_device, worker_options
from .on_device.apply import augment
from .on_device.draw import RecipeDrawer
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
        augment_on: Who applies them: TorchIO in the ``loader``, or the ``device``, for whole batches and with adjacent
            spatial transforms in one resampling. The same seed draws the same parameters on both.
        class_balance: Let each class come equally often; an epoch keeps its number of images.
        images_per_epoch: Images per epoch over all processes; null gives each training image once.
        num_workers: Processes that prepare batches; 0 prepares them in the training process, ``auto`` chooses by
            device, cores and memory.
        prefetch_factor: Batches that each of these processes prepares ahead.
    """

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        cache: str,
        batch_size: int = 32,
        split: SplitSettings = SplitSettings(max_val="all"),
        augmentation: list[tio.Transform] | None = None,
        augment_on: Literal["loader", "device"] = "loader",
        class_balance: bool = False,
        images_per_epoch: int | None = None,
        num_workers: Workers = "auto",
        prefetch_factor: int = 2,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise PocketError(f"data.init_args.batch_size: expected at least 1, got {batch_size}.")
        if images_per_epoch is not None and images_per_epoch < 1:
            raise PocketError(f"data.init_args.images_per_epoch: expected at least 1, got {images_per_epoch}.")
        check_loader(num_workers, prefetch_factor)
        self.cache = ImageCache.open(cache)
        self.batch_size = batch_size
        self.split_settings = split
        on_device = augment_on == "device" and augmentation
        self.transform = tio.Compose(augmentation, copy=False) if augmentation and not on_device else None
        self.drawer = RecipeDrawer(augmentation) if augmentation and on_device else None
        self.class_balance = class_balance
        self.images_per_epoch = images_per_epoch
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
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
        dataset = self._training()
        epoch = self.trainer.current_epoch if self.trainer else 0
        length = self.images_per_epoch or len(dataset.images)
        return DataLoader(dataset, sampler=KeySampler(length, epoch, *self._process()), **self._options())

    @override
    def val_dataloader(self) -> DataLoader[ImageItem] | list[DataLoader[ImageItem]]:
        return self._ordered(self.split.val) if self.split.val else []

    @override
    def test_dataloader(self) -> DataLoader[ImageItem]:
        self._need(self.split.test, "test")
        return self._ordered(self.split.test)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a batch of training images, where that was left to the device."""
        recipes = batch.pop("recipes", None)
        if recipes:
            augment(batch["image"][:, :, None], None, recipes)
        return batch

    def loader_workers(self) -> int:
        """Return how many processes prepare training batches; 0 where the training process does."""
        return int(self._workers()["num_workers"])

    def loader_stages(self) -> list[LoaderStage]:
        """Return what is done to an image on its way to the network, for ``pocket profile --data-only``."""
        self._need(self.split.train, "train")
        dataset = self._training()
        batch = collate([dataset[0, index] for index in range(self.batch_size)])
        volumes = {"image": batch["image"][:, :, None]}
        delivery = delivery_stages(volumes, self.loader_workers(), training_device(self.trainer), self.drawer)
        return [*image_stages(dataset, self.batch_size), *delivery]

    def _training(self) -> TrainingImages:
        images = CachedImages(self.cache, self.split.train)
        return TrainingImages(images, self.transform, _seed(), self.class_balance, self.drawer)

    def _workers(self) -> dict[str, Any]:
        batch_mib = self.batch_size * self.in_channels * float(np.prod(self.cache.size)) * 4 / 2**20
        return worker_options(self.num_workers, self.prefetch_factor, batch_mib, self.trainer)

    def _ordered(self, subjects: Sequence[str]) -> DataLoader[ImageItem]:
        return DataLoader(OrderedImages(CachedImages(self.cache, subjects), *self._process()), **self._options())

    def _options(self) -> dict[str, Any]:
        workers = self._workers()
        return workers | {
            "batch_size": self.batch_size,
            "collate_fn": collate,
            "persistent_workers": workers["num_workers"] > 0,
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
