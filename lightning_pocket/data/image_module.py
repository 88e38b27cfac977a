"""The data module for 2D images of known class, or with masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torchio as tio
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import DatasetInfo

from .images2d.cache import ImageCache
from .images2d.dataset import CachedImages, ImageItem, OrderedImages, TrainingImages, collate
from .images2d.views import TEN, CropFlip
from .loader_stages import LoaderStage, delivery_stages, image_stages
from .loader_workers import Workers, training_device, worker_options
from .module import PreparedDataModule, run_seed
from .on_device.apply import augment
from .patches import KeySampler
from .splits import SplitSettings


class ImageDataModule(PreparedDataModule):
    """Serves 2D images that ``pocket prepare`` wrote: of known class as ``types.ImageBatch``, with masks as ``Batch``.

    Every random number is keyed by the seed (``seed_everything``), the epoch and the index of the image. So the batches
    are the same with any number of workers, and a run that was killed continues as if it had not been. Masks are tested
    in the size of their images: batches of a test are ``types.CaseBatch``.

    Args:
        cache: Folder that ``pocket prepare`` wrote.
        batch_size: Images per step and process.
        split: Which images train, validate and test; validation and training have their share of each class.
        augmentation: TorchIO transforms of the training images, in order. An image is a volume ``(C, 1, H, W)`` of one
            slice with pixels of 1 mm: its axes are 1 (H) and 2 (W), and rotations are about axis 0.
        augment_on: Who applies them: TorchIO in the ``loader``, or the ``device``, for whole batches and with adjacent
            spatial transforms in one resampling. The same seed draws the same parameters on both.
        class_balance: Let each class come equally often; an epoch keeps its number of images. Images with masks may be
            of classes too.
        images_per_epoch: Images per epoch over all processes; null gives each training image once.
        num_workers: Processes that prepare batches; 0 prepares them in the training process, ``auto`` chooses by
            device, cores and memory.
        prefetch_factor: Batches that each of these processes prepares ahead.
        crop_flip: Random crops and flips of training images of known class, a whole batch at a time, where they are
            made without TorchIO: for small images, of which an epoch has many.
        test_crops: 10 tests with the ten crops of each image too: the middle, the corners, and the same flipped.
        test_padding: Pixels that are added on each side before these are cut, so that they have the size of the image.
    """

    case_noun = "image"

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
        crop_flip: CropFlip | None = None,
        test_crops: Literal[1, 10] = 1,
        test_padding: int = 4,
    ) -> None:
        if images_per_epoch is not None and images_per_epoch < 1:
            raise PocketError(f"data.init_args.images_per_epoch: expected at least 1, got {images_per_epoch}.")
        self.cache = ImageCache.open(cache)
        kinds = self.cache.class_of
        super().__init__(
            self.cache, batch_size, split, augmentation, augment_on, num_workers, prefetch_factor, classes=kinds
        )
        if class_balance and not all(kinds.values()):
            raise PocketError(
                f"data.init_args.class_balance: is true, but images in {self.cache.path} have masks and no class; set "
                "it to false, or add a column class to the data set."
            )
        if self.cache.masks is not None and (crop_flip is not None or test_crops != 1):
            name = "test_crops" if crop_flip is None else "crop_flip"
            raise PocketError(
                f"data.init_args.{name}: is for images of known class, but those in {self.cache.path} have masks; "
                "leave it out, and give augmentation instead."
            )
        if test_crops not in (1, TEN) or test_padding < 0:
            raise PocketError(
                f"data.init_args.test_crops: found {test_crops} with test_padding {test_padding}; expected 1 or {TEN} "
                "crops, and 0 pixels or more."
            )
        self.crop_flip = crop_flip
        self.ten_crops = test_padding if test_crops == TEN else None
        self.class_balance = class_balance
        self.images_per_epoch = images_per_epoch

    @property
    def class_counts(self) -> list[int]:
        """Training images of each class, where the images are of known class."""
        kinds = self.cache.class_of
        counts = Counter(kinds[subject] for subject in self.split.train)
        return [counts[name] for name in self.cache.classes]

    @property
    @override
    def info(self) -> dict[str, Any]:
        cache = self.cache
        masks = {} if cache.masks is None else {"masks": cache.masks.to_dict()}
        return DatasetInfo(
            cache.channels,
            cache.classes,
            cache.size,
            preprocessing=cache.preprocessing | masks,
            ignore_index=cache.ignore_index,
        ).to_dict()

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
        return self._ordered(self.split.test, original=self.cache.masks is not None, ten_crops=self.ten_crops)

    @override
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a batch of training images, where that was left to the device."""
        recipes = batch.pop("recipes", None)
        if recipes:
            label = batch.get("label")
            augment(batch["image"][:, :, None], None if label is None else label[:, None], recipes)
        return batch

    def loader_workers(self) -> int:
        """Return how many processes prepare training batches; 0 where the training process does."""
        return int(self._workers()["num_workers"])

    def loader_stages(self) -> list[LoaderStage]:
        """Return what is done to an image on its way to the network, for ``pocket profile --data-only``."""
        self._need(self.split.train, "train")
        dataset = self._training()
        batch = collate([dataset[0, index] for index in range(self.batch_size)])
        volumes: dict[str, Any] = {name: batch[name][..., None, :, :] for name in ("image", "label") if name in batch}
        delivery = delivery_stages(volumes, self.loader_workers(), training_device(self.trainer), self.drawer)
        return [*image_stages(dataset, self.batch_size), *delivery]

    def _training(self) -> TrainingImages:
        images = CachedImages(self.cache, self.split.train)
        return TrainingImages(images, self.transform, run_seed(), self.class_balance, self.drawer, self.crop_flip)

    def _workers(self) -> dict[str, Any]:
        batch_mib = self.batch_size * self.in_channels * float(np.prod(self.cache.size)) * 4 / 2**20
        return worker_options(self.num_workers, self.prefetch_factor, batch_mib, self.trainer)

    def _ordered(self, subjects: Sequence[str], **settings: Any) -> DataLoader[ImageItem]:
        images = CachedImages(self.cache, subjects)
        return DataLoader(OrderedImages(images, *self._process(), **settings), **self._options())

    def _options(self) -> dict[str, Any]:
        workers = self._workers()
        return workers | {
            "batch_size": self.batch_size,
            "collate_fn": collate,
            "persistent_workers": workers["num_workers"] > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator().manual_seed(run_seed()),  # the global one must not depend on the workers
        }
