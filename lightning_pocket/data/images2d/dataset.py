"""Items of a cache of 2D images: drawn at random for training, in order for validation and tests."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
import torch.nn.functional as F
import torchio as tio
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_pocket.data.on_device.draw import RecipeDrawer
from lightning_pocket.data.on_device.steps import Recipe
from lightning_pocket.data.patches import Key, TorchSeed

from .cache import ImageCache
from .original import ImageOriginal
from .views import CropFlip, ten_views


class ImageItem(TypedDict):
    """One image: ``image`` (C, H, W) float32, and its name.

    With ``target``, the index of its class, or ``label`` (H, W) uint8, the class of each pixel. Where augmentation is
    left to the device, what was drawn for it too. Whole cases with masks have the size of their pixels along (H, W), in
    mm where that is known, else in pixels of the original; those of a test their original.
    """

    image: Tensor
    subject: str
    target: NotRequired[int]
    label: NotRequired[Tensor]
    recipe: NotRequired[Recipe]
    spacing: NotRequired[tuple[float, float]]
    original: NotRequired[ImageOriginal]


class CachedImages:
    """Some images of a cache; its arrays are opened once per process.

    Args:
        cache: The prepared images.
        subjects: Names of the images to use.
    """

    def __init__(self, cache: ImageCache, subjects: Sequence[str]) -> None:
        row_of = {subject: row for row, subject in enumerate(cache.subjects)}
        self.rows = [row_of[subject] for subject in subjects]
        self.subjects = list(subjects)
        self.kinds = [cache.kinds[row] for row in self.rows]
        self.cache = cache
        self._open: tuple[np.ndarray, np.ndarray | None] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, places: Sequence[int]) -> dict[str, Any]:
        """Return several of the chosen images of known class at once, as :func:`collate` would stack them.

        Args:
            places: Their places among the chosen ones.

        Returns:
            ``image`` (B, C, H, W) float32, ``target`` (B,) int64, ``subject``.
        """
        if self._open is None:
            self._open = self.cache.images(), None
        rows = [self.rows[place] for place in places]
        return {
            "image": torch.from_numpy(self._open[0][rows]),
            "target": torch.tensor([self.cache.targets[row] for row in rows]),
            "subject": [self.subjects[place] for place in places],
        }

    def item(self, place: int) -> ImageItem:
        """Return image number ``place`` of the chosen ones."""
        if self._open is None:
            self._open = self.cache.images(), None if self.cache.masks is None else self.cache.labels()
        row, (images, labels) = self.rows[place], self._open
        image, subject = torch.from_numpy(np.array(images[row])), self.subjects[place]
        if labels is None:
            return {"image": image, "target": self.cache.targets[row], "subject": subject}
        return {"image": image, "label": torch.from_numpy(np.array(labels[row])), "subject": subject}

    def case(self, place: int, original: bool) -> ImageItem:
        """Return image number ``place`` as a whole case; with masks its pixel size and perhaps its original too."""
        item = self.item(place)
        if self.cache.masks is not None:
            item["spacing"] = self.cache.pixel_size(self.rows[place])
            if original:
                item["original"] = self.cache.original(self.rows[place])
        return item

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
        crop_flip: Crops and flips images of known class, a whole batch at a time, after ``transform``.
    """

    def __init__(
        self,
        images: CachedImages,
        transform: tio.Transform | None = None,
        seed: int = 0,
        balance: bool = False,
        drawer: RecipeDrawer | None = None,
        crop_flip: CropFlip | None = None,
    ) -> None:
        self.images = images
        self.drawer = drawer
        self.crop_flip = crop_flip
        self.transform = transform
        self.seed = seed
        order = {name: index for index, name in enumerate(images.cache.classes)}
        classes = sorted(set(images.kinds), key=lambda name: (order.get(name, 0), name)) if balance else [None]
        self.members = [[place for place, kind in enumerate(images.kinds) if name in (None, kind)] for name in classes]

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
            item["image"], label = augment_masked(item["image"], item.get("label"), self.transform, seed)
            if label is not None:
                item["label"] = label
        return item

    def __getitems__(self, keys: Sequence[Key]) -> dict[str, Any]:
        """Return the batch of several keys; loaders call this where it exists.

        Small images that no transform sees one by one are read and stacked at once: that is many times faster.
        """
        if self.images.cache.masks is not None or self.transform is not None or self.drawer is not None:
            batch = collate([self[key] for key in keys])
        else:
            batch = self.images.batch([self._place(*key) for key in keys])
        if self.crop_flip is not None:
            drawn = [self.crop_flip.draw((self.seed, *key)) for key in keys]
            batch["image"] = self.crop_flip(batch["image"], drawn)
        return batch

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
        original: Give each image with masks its original too, for tests.
        ten_crops: Pixels on each side of the ten crops of an image of known class, ``(B, 10, C, H, W)``; None for the
            image itself.
    """

    def __init__(
        self,
        images: CachedImages,
        rank: int = 0,
        world_size: int = 1,
        original: bool = False,
        ten_crops: int | None = None,
    ) -> None:
        self.images = images
        self.ten_crops = ten_crops
        self.original = original
        self.share = range(rank, len(images), world_size)
        self.length = -(-len(images) // world_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> ImageItem:
        """Return image number ``index`` of the share."""
        if index < len(self.share):
            return self.images.case(self.share[index], self.original)
        return self.images.case(0, self.original) | {"subject": ""}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch of several places of the share; loaders call this where it exists."""
        if self.images.cache.masks is not None:
            return collate([self[index] for index in indices])
        counted = [index < len(self.share) for index in indices]
        batch = self.images.batch(
            [self.share[index] if own else 0 for index, own in zip(indices, counted, strict=True)]
        )
        batch["subject"] = [name if own else "" for name, own in zip(batch["subject"], counted, strict=True)]
        if self.ten_crops is not None:
            size = batch["image"].shape[2:]
            batch["image"] = ten_views(F.pad(batch["image"], (self.ten_crops,) * 4), size)
        return batch


def collate(items: Sequence[ImageItem] | dict[str, Any]) -> dict[str, Any]:
    """Stack items; what is no number becomes a list, and what is left to the device the list ``recipes``.

    What a data set has stacked already passes through.
    """
    if isinstance(items, dict):
        return items
    rows: list[dict[str, Any]] = [dict(item) for item in items]
    names = [("recipe", "recipes"), ("spacing", "spacing"), ("original", "original")]
    lists = {plural: [row.pop(name) for row in rows] for name, plural in names if name in rows[0]}
    return default_collate(rows) | lists


def augment_masked(
    image: Tensor, label: Tensor | None, transform: tio.Transform, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Transform an image, and its mask alike, as volumes of one slice.

    Args:
        image: ``(C, H, W)`` float. Pixels count as 1 mm wide; H and W are the axes 1 and 2 of the volume.
        label: ``(H, W)`` uint8 class indices, if any.
        transform: TorchIO transform.
        seed: Decides what it draws.

    Returns:
        Image ``(C, H, W)`` float32, and label ``(H, W)`` uint8, if any.

    Raises:
        ValueError: If the transform gives several slices.
    """
    subject = tio.Subject(image=tio.ScalarImage(tensor=image[:, None]))
    if label is not None:
        subject.add_image(tio.LabelMap(tensor=label[None, None]), "label")
    with TorchSeed(seed):
        subject = transform(subject)
    moved = None if label is None else subject["label"].data[0, 0].to(torch.uint8)
    return subject["image"].data[:, 0].float(), moved


@lru_cache(maxsize=64)  # the same order serves a whole epoch
def _order(length: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(length)
