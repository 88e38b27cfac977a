"""New 2D images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_pocket.data.images2d.coding import MaskCoding
from lightning_pocket.data.images2d.original import write_mask, write_probability
from lightning_pocket.data.images2d.preprocess import ImagePreprocessing, resize_label, resize_plane
from lightning_pocket.data.images2d.read import read_picture
from lightning_pocket.data.inputs import find_pictures
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts import Case
from lightning_pocket.data.layouts.images import ImageCase

from .base import Loaded, Reader, Result


class ImageReader(Reader):
    """Reads 2D images.

    Args:
        preprocessing: Of the training.
        classes: Names of the classes of the training, in the order of their indices.
    """

    def __init__(self, preprocessing: Mapping[str, Any], classes: Sequence[str]) -> None:
        self.preprocessing = ImagePreprocessing.from_dict(dict(preprocessing))
        self.coding = MaskCoding.from_dict(preprocessing["masks"], classes, "the checkpoint")
        self.values = [self.coding.show(value) for value in self.coding.label_values]
        self.needs = "the network needs 2D images, one file each"

    @override
    def find(self, paths: Sequence[str]) -> list[Case]:
        return find_pictures(paths)

    @override
    def suffix(self, image: Path) -> str:
        return ".png"

    @override
    def load(self, images: Sequence[Path]) -> tuple[np.ndarray, LoadedImage]:
        image = images[0]
        picture = read_picture(ImageCase(image.stem, (image,), None))
        if not self.preprocessing.accepts(picture):
            found = f"has pixels of type {picture.pixels.dtype}"
            raise ImageError(image, found, "store it with 8 or 16 bits, as the images of the training")
        height, width = picture.pixels.shape[:2]
        return self.preprocessing.apply(picture), LoadedImage([], (height, width), picture.pixel_mm, self.coding)


@dataclass
class LoadedImage(Loaded):
    """A 2D image that was read; see ``Loaded``."""

    notes: list[str]
    shape: tuple[int, int]
    pixel_mm: tuple[float, float] | None
    coding: MaskCoding

    @override
    def finish(self, found: np.ndarray, probabilities: np.ndarray | None) -> ImageResult:
        label = resize_label(found.astype(np.uint8, copy=False), self.shape)
        return ImageResult(found, probabilities, self.notes, label, self.coding, self.pixel_mm)


@dataclass(frozen=True)
class ImageResult(Result):
    """A segmented 2D image.

    Args:
        label: Class indices ``(H, W)`` uint8 in the size of the image.
        coding: What value each class is written with.
        pixel_mm: Height and width of a pixel in mm, where the file tells.
    """

    label: np.ndarray
    coding: MaskCoding
    pixel_mm: tuple[float, float] | None = None

    @override
    def write(self, path: Path) -> None:
        write_mask(path, self.label, self.coding)

    @override
    def write_probability(self, index: int, path: Path) -> None:
        write_probability(path, resize_plane(self._probability(index), self.label.shape))

    @override
    def sizes(self) -> list[str]:
        counts = np.bincount(self.label.ravel(), minlength=len(self.coding.classes))
        if self.pixel_mm is None:
            return [f"{count:,} pixels" for count in counts]
        return [f"{count * math.prod(self.pixel_mm):.1f} mm2" for count in counts]
