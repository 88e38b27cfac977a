"""Images of known class that are read from their files at each visit: for data sets too large for a cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.layouts.images import is_image_file
from lightning_pocket.data.patches import Key
from lightning_pocket.errors import PocketError

from .preprocess import ImagePreprocessing
from .read import Picture, read_file
from .views import ten_views

_TRIES = 10  # of a crop that must lie inside the image


@dataclass(frozen=True)
class ImageFiles:
    """The images in folders of classes; each is called after its path below the data set.

    Args:
        path: Folder of the data set.
        channels: Names of the channels that images are read with.
        classes: Names of the classes, which are those of their folders, in alphabetical order.
        subjects: Paths of the images below ``path``, with forward slashes.
        targets: Index of the class of each.
        folds: Which of them test or validate; the others train.
    """

    path: Path
    channels: list[str]
    classes: list[str]
    subjects: list[str]
    targets: list[int]
    folds: dict[str, Assignment] = field(repr=False)

    @classmethod
    def find(cls, path: Path, channels: Sequence[str], folder_of: dict[str, str]) -> ImageFiles:
        """List the images; none is read.

        Args:
            path: Folder of the data set.
            channels: Names of the channels.
            folder_of: Name of the folder of each part: ``train``, ``test`` and perhaps ``val``.

        Raises:
            PocketError: If a folder is missing or has no images, or a part has a class that training lacks.
        """
        found: list[tuple[str, str, str]] = []
        for part, name in folder_of.items():
            images = [(part, *image) for image in _images(path, name)]
            if not images:
                state = "has no images in folders of classes" if (path / name).is_dir() else "is missing"
                raise PocketError(
                    f"{path / name}: {state}; expected {name}/CLASS/*.JPEG. Name the folder of the data set in "
                    f"data.init_args.folder, and this one in data.init_args.{part}_folder."
                )
            found += images
        classes = sorted({name for part, name, _ in found if part == "train"})
        index_of = {name: index for index, name in enumerate(classes)}
        foreign = next(((part, name) for part, name, _ in found if name not in index_of), None)
        if foreign is not None:
            part, name = foreign
            raise PocketError(
                f"{path / folder_of[part] / name}: {folder_of['train']} has no class '{name}'; put the images of both "
                "into folders of the same names."
            )
        places = {part: Assignment(split=None if part == "train" else part) for part in folder_of}
        return cls(
            path,
            list(channels),
            classes,
            [subject for _, _, subject in found],
            [index_of[name] for _, name, _ in found],
            {subject: places[part] for part, _, subject in found},
        )

    @property
    def hash(self) -> str:
        """SHA-256 over the names of the images: to read all of them would take as long as an epoch."""
        digest = hashlib.sha256()
        for subject in self.subjects:
            digest.update(f"{subject}\n".encode())
        return digest.hexdigest()


def _images(path: Path, folder: str) -> Iterator[tuple[str, str]]:
    """Give class and path of every image of a part, sorted."""
    parent = path / folder
    if not parent.is_dir():
        return
    for entry in sorted(parent.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            with os.scandir(entry) as files:  # without a stat of each of a million files
                names = sorted(file.name for file in files if is_image_file(Path(file.name)))
            yield from ((entry.name, f"{folder}/{entry.name}/{name}") for name in names)


@dataclass(frozen=True)
class RandomResizedCrop:
    """Cuts a random rectangle out of an image, brings it to one size, and flips it left to right at random.

    So are networks trained on ImageNet since GoogLeNet (Szegedy et al., CVPR 2015, section 6).

    Args:
        scale: Least and largest share of the area of the image that is cut out.
        ratio: Least and largest width of the rectangle for a height of 1; the logarithm is drawn evenly.
        flip: Probability of a flip, in [0, 1].

    Raises:
        PocketError: If a setting is out of range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise PocketError(f"data.init_args.crop.scale: found {self.scale}, expected 0 < least <= largest <= 1.")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise PocketError(f"data.init_args.crop.ratio: found {self.ratio}, expected 0 < least <= largest.")
        if not 0 <= self.flip <= 1:
            raise PocketError(f"data.init_args.crop.flip: found {self.flip}, expected a probability from 0 to 1.")

    def draw(self, shape: Sequence[int], rng: np.random.Generator) -> tuple[tuple[int, int, int, int], bool]:
        """Return a box ``(left, top, right, bottom)`` in pixels, and whether to flip.

        Where no rectangle of ten fits, it is the largest in the middle whose ratio is allowed.

        Args:
            shape: Rows and columns of the image.
            rng: Draws.
        """
        rows, columns = shape[0], shape[1]
        flip = bool(rng.random() < self.flip)
        for _ in range(_TRIES):
            area = rows * columns * rng.uniform(*self.scale)
            ratio = np.exp(rng.uniform(*np.log(self.ratio)))
            width, height = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
            if 0 < width <= columns and 0 < height <= rows:
                left, top = int(rng.integers(columns - width + 1)), int(rng.integers(rows - height + 1))
                return (left, top, left + width, top + height), flip
        width = min(columns, round(rows * self.ratio[1]))
        height = min(rows, round(columns / self.ratio[0]))
        left, top = (columns - width) // 2, (rows - height) // 2
        return (left, top, left + width, top + height), flip


class StreamedImages(Dataset[dict[str, Any]]):
    """Images that are decoded when they are asked for.

    Args:
        files: The data set.
        subjects: Names of the images to use.
        preprocessing: What makes a prepared image, or its middle, of one from a file.
        crop: What is cut out of a training image; None for the middle.
        seed: Together with epoch and index, decides everything random.
        ten_crops: Give ten crops ``(10, C, H, W)`` of each image.
    """

    def __init__(
        self,
        files: ImageFiles,
        subjects: Sequence[str],
        preprocessing: ImagePreprocessing,
        crop: RandomResizedCrop | None = None,
        seed: int = 0,
        ten_crops: bool = False,
    ) -> None:
        target_of = dict(zip(files.subjects, files.targets, strict=True))
        self.files = files.path
        self.subjects = list(subjects)
        self.targets = [target_of[subject] for subject in subjects]
        self.preprocessing = preprocessing
        self.crop = crop
        self.seed = seed
        self.ten_crops = ten_crops

    def __len__(self) -> int:
        return len(self.subjects)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        """Return the image of ``(epoch, index)``: in random order for training, else in theirs.

        Raises:
            ImageError: If its file is damaged.
        """
        epoch, index = key
        place = index
        if self.crop is not None:
            turn, place = divmod(index, len(self))
            place = int(_order(len(self), self.seed, epoch, turn)[place])
        picture = read_file(self.files / self.subjects[place])
        image = self._view(picture, key)
        return {"image": image, "target": self.targets[place], "subject": self.subjects[place]}

    def _view(self, picture: Picture, key: Key) -> Tensor:
        if self.crop is not None:
            box, flip = self.crop.draw(picture.pixels.shape, np.random.default_rng([self.seed, *key]))
            image = torch.from_numpy(self.preprocessing.apply_to(picture, box))
            return image.flip(-1) if flip else image
        if self.ten_crops:
            planes = self.preprocessing.scale(self.preprocessing.planes(picture), picture.highest)
            return ten_views(torch.from_numpy(planes)[None], self.preprocessing.size)[0]
        return torch.from_numpy(np.ascontiguousarray(self.preprocessing.apply(picture)))


class StreamedShare(Dataset[dict[str, Any]]):
    """The images of one process in order; one is repeated under an empty name where they do not divide evenly.

    Args:
        images: Images of all processes; at least one.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(self, images: StreamedImages, rank: int = 0, world_size: int = 1) -> None:
        self.images = images
        self.share = range(rank, len(images), world_size)
        self.length = -(-len(images) // world_size)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return image number ``index`` of the share."""
        if index < len(self.share):
            return self.images[0, self.share[index]]
        return self.images[0, 0] | {"subject": ""}


def stack(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Stack images and classes; names become a list."""
    return dict(default_collate(items))


@lru_cache(maxsize=2)  # a million indices take 8 MiB
def _order(length: int, *key: int) -> np.ndarray:
    return np.random.default_rng(key).permutation(length)
