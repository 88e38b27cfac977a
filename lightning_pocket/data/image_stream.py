"""The data module for images of known class that are streamed from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import DatasetInfo

from .images2d.preprocess import ImagePreprocessing
from .images2d.stream import ImageFiles, RandomResizedCrop, StreamedImages, StreamedShare, stack
from .images2d.views import TEN
from .loader_workers import Workers, worker_options
from .module import PreparedDataModule, run_seed
from .patches import KeySampler
from .splits import SplitSettings


class StreamedImageDataModule(PreparedDataModule):
    """Serves images in folders of classes as ``types.ImageBatch``; nothing is prepared, and nothing kept in memory.

    For ImageNet and its like: ``FOLDER/train/CLASS/*.JPEG`` and ``FOLDER/val/CLASS/*.JPEG``, whose official validation
    images test, while some of the training images validate. Every random number is keyed by the seed, the epoch and
    the index of the image, as in :class:`ImageDataModule`.

    Args:
        folder: Folder of the data set.
        train_folder: Folder of the training images in it.
        test_folder: Folder of the images that test.
        val_folder: Folder of the images that validate; null draws them from the training images, of each class its
            share. Choosing a network by the images that test it would make its error too small.
        size: Rows and columns that the network sees.
        shorter_side: Pixels that the shorter side of an image gets, before its middle is cut out or ten crops.
        color: ``rgb`` or ``grey``.
        mean: Subtracted from each channel, whose values are from 0 to 1.
        std: What each channel is divided by after that.
        crop: What is cut out of a training image.
        batch_size: Images per step and process.
        split: ``val_fraction``, ``max_val``, ``seed`` and ``train_fraction``; there are no folds.
        images_per_epoch: Images per epoch over all processes; null gives each training image once.
        test_crops: 10 tests with ten crops of each image too: the middle, the corners, and the same flipped.
        num_workers: Processes that prepare batches; 0 prepares them in the training process, ``auto`` chooses by
            device, cores and memory.
        prefetch_factor: Batches that each of these processes prepares ahead.

    Raises:
        PocketError: If the folders are not such a data set, or a setting is wrong.
    """

    case_noun = "image"

    def __init__(  # noqa: PLR0913 (every argument is a key of the config)
        self,
        folder: str,
        train_folder: str = "train",
        test_folder: str = "val",
        val_folder: str | None = None,
        size: tuple[int, int] = (224, 224),
        shorter_side: int = 256,
        color: Literal["grey", "rgb"] = "rgb",
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
        crop: RandomResizedCrop = RandomResizedCrop(),
        batch_size: int = 256,
        split: SplitSettings = SplitSettings(fold=None, val_fraction=0.02, max_val="all"),
        images_per_epoch: int | None = None,
        test_crops: Literal[1, 10] = 1,
        num_workers: Workers = "auto",
        prefetch_factor: int = 2,
    ) -> None:
        if images_per_epoch is not None and images_per_epoch < 1:
            raise PocketError(f"data.init_args.images_per_epoch: expected at least 1, got {images_per_epoch}.")
        if test_crops not in (1, TEN):
            raise PocketError(f"data.init_args.test_crops: found {test_crops}, expected 1 or {TEN}.")
        self.preprocessing = ImagePreprocessing(tuple(size), color, "unit", tuple(mean), tuple(std), shorter_side)
        folders = {"train": train_folder, "test": test_folder} | ({} if val_folder is None else {"val": val_folder})
        self.files = ImageFiles.find(Path(folder), self.preprocessing.channels, folders)
        class_of = {
            subject: self.files.classes[target]
            for subject, target in zip(self.files.subjects, self.files.targets, strict=True)
        }
        super().__init__(self.files, batch_size, split, None, "loader", num_workers, prefetch_factor, classes=class_of)
        self.crop = crop
        self.images_per_epoch = images_per_epoch
        self.ten_crops = test_crops == TEN

    @property
    @override
    def info(self) -> dict[str, Any]:
        plain = self.preprocessing.to_dict()
        return DatasetInfo(self.files.channels, self.files.classes, plain["size"], preprocessing=plain).to_dict()

    @override
    def setup(self, stage: str) -> None:
        if stage == "fit":
            self._need(self.split.train, "train")

    @override
    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        images = StreamedImages(self.files, self.split.train, self.preprocessing, self.crop, run_seed())
        epoch = self.trainer.current_epoch if self.trainer else 0
        length = self.images_per_epoch or len(images)
        return DataLoader(images, sampler=KeySampler(length, epoch, *self._process()), **self._options())

    @override
    def val_dataloader(self) -> DataLoader[dict[str, Any]] | list[DataLoader[dict[str, Any]]]:
        if not self.split.val:
            return []
        images = StreamedImages(self.files, self.split.val, self.preprocessing)
        return DataLoader(StreamedShare(images, *self._process()), **self._options())

    @override
    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        self._need(self.split.test, "test")
        images = StreamedImages(self.files, self.split.test, self.preprocessing, ten_crops=self.ten_crops)
        return DataLoader(StreamedShare(images, *self._process()), **self._options())

    def loader_workers(self) -> int:
        """Return how many processes prepare training batches; 0 where the training process does."""
        return int(self._workers()["num_workers"])

    def _workers(self) -> dict[str, Any]:
        height, width = self.preprocessing.size
        batch_mib = self.batch_size * self.in_channels * height * width * 4 / 2**20
        return worker_options(self.num_workers, self.prefetch_factor, batch_mib, self.trainer)

    def _options(self) -> dict[str, Any]:
        workers = self._workers()
        return workers | {
            "batch_size": self.batch_size,
            "collate_fn": stack,
            "persistent_workers": workers["num_workers"] > 0,
            "pin_memory": torch.cuda.is_available(),
            "generator": torch.Generator().manual_seed(run_seed()),  # the global one must not depend on the workers
        }
