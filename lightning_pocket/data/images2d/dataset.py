"""Items of a cache of 2D images: drawn at random for training, in order for validation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_pocket.data.on_device.draw import RecipeDrawer
from lightning_pocket.data.on_device.steps import Recipe
from lightning_pocket.data.patches import Key, TorchSeed

from .cache import ImageCache


class ImageItem(TypedDict):
    """One image: ``image`` (C, H, W) float32, ``target`` the index of its class, and its name.

    Where augmentation is left to the device, what was drawn for it too.
    """

    image: Tensor
    target: int
    subject: str
    recipe: NotRequired[Recipe]


class CachedImages:
    """Some images of a cache; its array is opened once per process.

    Args:
        cache: The prepared images.
        subjects: Names of the images to use.
    """

    def __init__(self, cache: ImageCache, subjects: Sequence[str]) -> None:
        row_of = {subject: row for row, subject in enumerate(cache.subjects)}
        self.rows = [row_of[subject] for subject in subjects]
        self.subjects = list(subjects)
        self.targets = [cache.targets[row] for row in self.rows]
        self._cache = cache
        self._open: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, place: int) -> ImageItem:
        """Return image number ``place`` of the chosen ones."""
        if self._open is None:
            self._open = self._cache.images()
        image = torch.from_numpy(np.array(self._open[self.rows[place]]))
        return {"image": image, "target": self.targets[place], "subject": self.subjects[place]}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the memory map behind: pickled, it would be a copy of the array."""
        return self.__dict__ | {"_open": None}


class TrainingImages(Dataset[ImageItem]):
    """Images for training, each visited equally often, or each class equally often.

    What an ``(epoch, index)`` gives depends on the seed alone: not on the number of workers, nor on whether the run was
    interrupted.

    Args:
        images: Images to draw from.
        transform: TorchIO transform of each image, as a volume ``(C, 1, H, W)``.
        seed: Together with epoch and index, decides everything random.
        balance: Visit each class equally often; the images of a small class come several times in an epoch.
        drawer: Draws what the device is to do with each image, instead of ``transform``, which does it here.
    """

    def __init__(
        self,
        images: CachedImages,
        transform: tio.Transform | None = None,
        seed: int = 0,
        balance: bool = False,
        drawer: RecipeDrawer | None = None,
    ) -> None:
        self.images = images
        self.drawer = drawer
        self.transform = transform
        self.seed = seed
        classes = sorted(set(images.targets)) if balance else [None]
        self.members = [
            [place for place, target in enumerate(images.targets) if name in (None, target)] for name in classes
        ]

    def __getitem__(self, key: Key) -> ImageItem:
        """Return the item of ``(epoch, index)``."""
        epoch, index = key
        item = self.images.item(self._place(epoch, index))
        if self.drawer is None and self.transform is None:
            return item
        seed = int(np.random.default_rng([self.seed, epoch, index]).integers(2**63))
        if self.drawer is not None:
            with TorchSeed(seed):
                item["recipe"] = self.drawer.draw((1.0, 1.0, 1.0), len(item["image"]))
        elif self.transform is not None:
            item["image"] = augment(item["image"], self.transform, seed)
        return item

    def _place(self, epoch: int, index: int) -> int:
        """Return which image comes at an index: the classes take turns in random order, so do the images of each."""
        turn, place = divmod(index, len(self.members))
        group = int(_order(len(self.members), self.seed, 0, epoch, turn)[place])
        members = self.members[group]
        block, place = divmod(turn, len(members))
        return members[int(_order(len(members), self.seed, 1, epoch, block, group)[place])]


class OrderedImages(Dataset[ImageItem]):
    """Images in order: this process's share.

    Processes must take equally many steps, or they wait for each other for ever. Where the images do not divide evenly,
    a process repeats one under an empty identifier, which tells the task not to count it.

    Args:
        images: Images of all processes; at least one.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, images: CachedImages, rank: int = 0, world_size: int = 1) -> None:
        self.images = images
        self.share = range(rank, len(images), world_size)
        self.length = -(-len(images) // world_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ImageItem:
        """Return image number ``index`` of the share."""
        if index < len(self.share):
            return self.images.item(self.share[index])
        return self.images.item(0) | {"subject": ""}


def collate(items: Sequence[ImageItem]) -> dict[str, Any]:
    """Stack items; what is left to the device becomes the list ``recipes``."""
    recipes = [item["recipe"] for item in items if "recipe" in item]
    plain = [{name: value for name, value in item.items() if name != "recipe"} for item in items]
    return default_collate(plain) | ({"recipes": recipes} if recipes else {})


def augment(image: Tensor, transform: tio.Transform, seed: int) -> Tensor:
    """Transform an image as a volume of one slice.

    Args:
        image: ``(C, H, W)`` float. Pixels count as 1 mm wide; H and W are the axes 1 and 2 of the volume.
        transform: TorchIO transform.
        seed: Decides what it draws.

    Returns:
        ``(C, H, W)`` float32.

    Raises:
        ValueError: If the transform gives several slices.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the GPUs too
        subject = transform(tio.Subject(image=tio.ScalarImage(tensor=image[:, None])))
    return subject["image"].data[:, 0].float()


@lru_cache(maxsize=64)  # the same order serves a whole epoch
def _order(length: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(length)
