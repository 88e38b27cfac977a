"""The layout of MedMNIST (Yang et al., Scientific Data 2023): many small images in one file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout, renamed_classes

_SPLITS = ("train", "val", "test")


class MedMNIST(ImageLayout):
    """One ``.npz`` file with ``train_images`` (N, H, W) or (N, H, W, 3), ``train_labels`` (N, 1), and val and test.

    The file holds no names: classes are "0", "1" and so on unless ``--classes`` names them. Image 12 of the training
    set is called ``train_00012``. Only sets with one class per image are read, not those with several labels.
    """

    name = "medmnist"
    expects = "one .npz file with train_images, train_labels, and so on"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._targets: dict[str, np.ndarray] = {}
        headers = {}
        try:
            with np.load(root, allow_pickle=False) as content:
                for split in [split for split in _SPLITS if f"{split}_images" in content]:
                    headers[split] = _header(root, f"{split}_images.npy")
                    self._targets[split] = content[f"{split}_labels"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise PocketError(f"{root}: cannot be read as MedMNIST ({error}); expected {self.expects}.") from error
        for split, targets in self._targets.items():
            _check_images(f"{root}: {split}_images", *headers[split])
            _check_targets(f"{root}: {split}_labels", headers[split][0][0], targets)
        height, width = headers["train"][0][1:3]
        self.size = (height, width)
        highest = max(int(targets.max()) for targets in self._targets.values())
        self.class_names = [str(index) for index in range(highest + 1)]

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() != ".npz":
            return False
        try:
            with zipfile.ZipFile(root) as content:
                return {"train_images.npy", "train_labels.npy"} <= set(content.namelist())
        except (OSError, zipfile.BadZipFile):
            return False

    @override
    def image_cases(self) -> list[ImageCase]:
        return [case for split in self._targets for case in self._split(split)]

    @override
    def choose_classes(self, names: Sequence[str]) -> None:
        self.class_names = renamed_classes(self.root, self.class_names, names)

    def _split(self, split: str) -> Iterator[ImageCase]:
        for row, target in enumerate(self._targets[split].ravel().tolist()):
            name, member = f"{split}_{row:05d}", (f"{split}_images", row)
            class_name = self.class_names[target]
            yield ImageCase(name, (self.root,), None, split=split, class_name=class_name, member=member)


def _header(root: Path, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array without reading it."""
    with zipfile.ZipFile(root) as content, content.open(name) as stream:
        old = np.lib.format.read_magic(stream) == (1, 0)
        header = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(stream)
        return header[0], header[2]


def _check_images(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    flat = len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3)
    if not flat or dtype not in (np.uint8, np.uint16):
        raise PocketError(
            f"{where} has the shape {shape} and the type {dtype}; expected (N, H, W) or (N, H, W, 3), 2D images, grey "
            "or RGB, as uint8 or uint16."
        )


def _check_targets(where: str, images: int, targets: np.ndarray) -> None:
    whole = np.issubdtype(targets.dtype, np.integer)
    if not images or targets.size != images or not whole or targets.min() < 0:
        raise PocketError(
            f"{where} has the shape {targets.shape} and the type {targets.dtype} for {images} images; expected one "
            "whole number from 0 for each. Sets with several labels per image are not supported."
        )
