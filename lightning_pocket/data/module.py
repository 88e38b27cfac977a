"""What the data modules share: what they tell of the data, who augments, and how work is shared between processes."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torchio as tio
from pytorch_lightning import LightningDataModule

from lightning_pocket.errors import PocketError

from .folds import Assignment
from .loader_workers import Workers, check_loader
from .on_device.draw import RecipeDrawer
from .splits import Split, SplitSettings, split_subjects


class PreparedData(Protocol):
    """What ``pocket prepare`` wrote."""

    @property
    def path(self) -> Path:
        """Folder of the cache."""

    @property
    def channels(self) -> list[str]:
        """Names of the channels."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""

    @property
    def hash(self) -> str:
        """SHA-256 over the content of the inputs and the settings."""

    @property
    def subjects(self) -> list[str]:
        """Names of the cases."""

    @property
    def folds(self) -> dict[str, Assignment]:
        """Fold and split of each case."""


class PreparedDataModule(LightningDataModule):
    """Serves what ``pocket prepare`` wrote.

    Every random number is keyed by the seed (``seed_everything``), the epoch and the index of an item.

    Args:
        cache: The prepared data.
        batch_size: Items per step and process.
        split: Which cases train, validate and test.
        augmentation: TorchIO transforms of the training items, in order.
        augment_on: Who applies them: TorchIO in the ``loader``, or the ``device``, for whole batches.
        num_workers: Processes that prepare batches.
        prefetch_factor: Batches that each of these processes prepares ahead.
        classes: Class of each case, of which each part gets its share; None where voxels are labelled.

    Attributes:
        transform: What the loader applies, if anything.
        drawer: Draws what the device applies, if anything.
        split: The cases of each part.

    Raises:
        PocketError: If a setting is wrong.
    """

    case_noun = "case"

    def __init__(
        self,
        cache: PreparedData,
        batch_size: int,
        split: SplitSettings,
        augmentation: Sequence[tio.Transform] | None,
        augment_on: Literal["loader", "device"],
        num_workers: Workers,
        prefetch_factor: int,
        classes: dict[str, str] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise PocketError(f"data.init_args.batch_size: expected at least 1, got {batch_size}.")
        check_loader(num_workers, prefetch_factor)
        self.batch_size = batch_size
        self.split_settings = split
        on_device = augment_on == "device" and augmentation
        self.transform = tio.Compose(augmentation, copy=False) if augmentation and not on_device else None
        self.drawer = RecipeDrawer(augmentation) if augmentation and on_device else None
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self._prepared = cache
        self.split: Split = split_subjects(cache.folds, split, classes)

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return len(self._prepared.channels)

    @property
    def num_classes(self) -> int:
        """Number of classes; where voxels are labelled, background included."""
        return len(self._prepared.classes)

    @property
    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Return what the task must know of the data, as plain types."""

    @property
    def record(self) -> dict[str, Any]:
        """Return what identifies the data of a run: the cache's place and hash and the cases of each split."""
        cache = self._prepared
        return {"cache": str(cache.path.resolve()), "hash": cache.hash, "split": self.split.to_dict()}

    def items_of(self, stage: Literal["train", "val", "test"]) -> str:  # noqa: ARG002 (what a subclass looks at)
        """Return what one counts in the batches of a stage, in the plural."""
        return f"{self.case_noun}s"

    def _process(self) -> tuple[int, int]:
        """Return the number of this process and of all."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _need(self, subjects: Sequence[str], split: str) -> None:
        if not subjects:
            raise PocketError(
                f"data.init_args.split: no {self.case_noun} is left to {split} (fold {self.split_settings.fold} of "
                f"{len(self._prepared.subjects)} {self.case_noun}s in {self._prepared.path}). Choose another fold, or "
                "give a file of folds."
            )


def run_seed() -> int:
    """Return the seed of the run, 0 where none was set."""
    return int(os.environ.get("PL_GLOBAL_SEED", 0))
