"""The layout of MNIST and its relatives (Fashion-MNIST, KMNIST): idx files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from lightning_pocket.data.idx import read_idx
from lightning_pocket.data.integrity import INTACT_COPY, ImageError
from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout, renamed_classes

_PARTS = {"train": "train", "t10k": "test"}
_DIGITS = 10


class MNIST(ImageLayout):
    """``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, the same with ``t10k``; with or without ``.gz``.

    Classes are "0", "1" and so on, ten at least, unless ``--classes`` names them. The official test images test; where
    the folder holds one of the two parts alone, folds are made of it. Image 12 of the training set is called
    ``train_00012``.
    """

    name = "mnist"
    expects = "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same with t10k, perhaps with .gz"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._targets: dict[Path, tuple[str, np.ndarray]] = {}
        sizes = set()
        for part in _PARTS:
            images, labels = _find(root, part, "images-idx3"), _find(root, part, "labels-idx1")
            if images is None and labels is None:
                continue
            if images is None or labels is None:
                missing = f"{part}-{'images-idx3' if images is None else 'labels-idx1'}-ubyte"
                raise PocketError(f"{root}: {missing} is missing; put it beside the other, with or without .gz.")
            pixels, targets = read_idx(images, 3), read_idx(labels, 1)
            _check(images, pixels, labels, targets)
            sizes.add((int(pixels.shape[1]), int(pixels.shape[2])))
            self._targets[images] = (part, targets)
        if len(sizes) > 1:
            raise PocketError(f"{root}: images of {_sizes(sizes)} pixels; give each data set a folder of its own.")
        self.size = next(iter(sizes))
        highest = max(int(targets.max()) for _, targets in self._targets.values())
        self.class_names = [str(index) for index in range(max(highest + 1, _DIGITS))]

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return root.is_dir() and any(
            _find(root, part, what) for part in _PARTS for what in ("images-idx3", "labels-idx1")
        )

    @override
    def image_cases(self) -> list[ImageCase]:
        return [case for file in self._targets for case in self._part(file)]

    @override
    def choose_classes(self, names: Sequence[str]) -> None:
        self.class_names = renamed_classes(self.root, self.class_names, names)

    def _part(self, file: Path) -> Iterator[ImageCase]:
        part, targets = self._targets[file]
        split = _PARTS[part] if len(self._targets) > 1 else None
        for row, target in enumerate(targets.tolist()):
            class_name = self.class_names[target]
            yield ImageCase(f"{part}_{row:05d}", (file,), None, split=split, class_name=class_name, member=("idx", row))


def read_idx_images(path: Path) -> np.ndarray:
    """Read the images of an idx file.

    Args:
        path: The file.

    Returns:
        ``(N, H, W)`` uint8.

    Raises:
        ImageError: If it is damaged.
    """
    return read_idx(path, 3)


def _find(root: Path, part: str, what: str) -> Path | None:
    """Return the file of a part; some copies have a dot before ``idx``, since Windows hides what follows a dash."""
    names = [f"{part}-{what}-ubyte", f"{part}-{what.replace('-idx', '.idx')}-ubyte"]
    files = [root / f"{name}{suffix}" for name in names for suffix in ("", ".gz")]
    return next((file for file in files if file.is_file()), None)


def _check(images: Path, pixels: np.ndarray, labels: Path, targets: np.ndarray) -> None:
    if pixels.dtype != np.uint8 or not pixels.size:
        raise ImageError(images, f"holds {pixels.dtype} {pixels.shape}, expected uint8 (N, H, W)", INTACT_COPY)
    if targets.dtype != np.uint8 or len(targets) != len(pixels):
        finding = f"holds {len(targets):,} labels of {targets.dtype} for {len(pixels):,} images"
        raise ImageError(labels, finding, "give it the labels of these images, as uint8")


def _sizes(sizes: set[tuple[int, int]]) -> str:
    return " and ".join(f"{height} x {width}" for height, width in sorted(sizes))
