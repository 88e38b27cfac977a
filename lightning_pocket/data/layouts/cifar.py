"""The layout of CIFAR-10 and CIFAR-100 as their authors publish them for Python (Krizhevsky, 2009)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from lightning_pocket.data.integrity import INTACT_COPY, ImageError
from lightning_pocket.data.safe_pickle import read_plain_pickle
from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout

_SIZE = (32, 32)
_VALUES = 3 * 32 * 32  # of an image: the red plane, the green one, the blue one


@dataclass(frozen=True)
class _Release:
    """Names of files and keys of one of the two data sets."""

    files: dict[str, str]
    labels: bytes
    meta: str
    names: bytes


_CIFAR_10 = _Release(
    files={**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"},
    labels=b"labels",
    meta="batches.meta",
    names=b"label_names",
)
_CIFAR_100 = _Release(
    files={"train": "train", "test": "test"}, labels=b"fine_labels", meta="meta", names=b"fine_label_names"
)


class Cifar(ImageLayout):
    """Pickled batches: ``data_batch_1`` to ``5`` and ``test_batch`` (CIFAR-10), or ``train`` and ``test`` (CIFAR-100).

    ``batches.meta`` or ``meta`` names the classes, those of CIFAR-100 being the hundred fine ones. The official test
    images test. Pickles are read by a reader that lets in arrays, numbers and text alone. The second image of the first
    batch is called ``data_batch_1_00001``.
    """

    name = "cifar"
    expects = "data_batch_1 to data_batch_5, test_batch and batches.meta, or train, test and meta (the Python version)"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        release = _release(root)
        missing = [name for name in (*release.files, release.meta) if not (root / name).is_file()]
        if missing:
            raise PocketError(
                f"{root}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; unpack the archive of "
                "the Python version again."
            )
        self.size = _SIZE
        names = _entry(root / release.meta, read_plain_pickle(root / release.meta), release.names)
        self.class_names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in names]
        self._targets = {file: self._labels(root / file, release.labels) for file in release.files}
        self._splits = release.files

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        hundred = all((root / name).is_file() for name in _CIFAR_100.files)
        return hundred or any((root / name).is_file() for name in _CIFAR_10.files)

    @override
    def image_cases(self) -> list[ImageCase]:
        return [case for file, targets in self._targets.items() for case in self._batch(file, targets)]

    def _labels(self, path: Path, key: bytes) -> list[int]:
        content = read_plain_pickle(path)
        pixels, labels = _pixels(path, content), _entry(path, content, key)
        count = len(self.class_names)
        fitting = len(labels) == len(pixels) and all(
            isinstance(label, int | np.integer) and 0 <= label < count for label in labels
        )
        if not fitting:
            raise ImageError(
                path,
                f"holds {len(labels)} labels for {len(pixels)} images, or one that is not from 0 to {count - 1}",
                INTACT_COPY,
            )
        return [int(label) for label in labels]

    def _batch(self, file: str, targets: list[int]) -> Iterator[ImageCase]:
        for row, target in enumerate(targets):
            yield ImageCase(
                f"{file}_{row:05d}",
                (self.root / file,),
                None,
                split=self._splits[file],
                class_name=self.class_names[target],
                member=("cifar", row),
            )


def read_cifar_images(path: Path) -> np.ndarray:
    """Read the images of one batch.

    Args:
        path: A pickled batch.

    Returns:
        ``(N, 32, 32, 3)`` uint8.

    Raises:
        PocketError: If it holds anything but arrays, numbers and text.
        ImageError: If it is damaged.
    """
    pixels = _pixels(path, read_plain_pickle(path))
    return np.ascontiguousarray(pixels.reshape(-1, 3, *_SIZE).transpose(0, 2, 3, 1))


def _release(root: Path) -> _Release:
    return _CIFAR_100 if all((root / name).is_file() for name in _CIFAR_100.files) else _CIFAR_10


def _pixels(path: Path, content: Any) -> np.ndarray:
    pixels = _entry(path, content, b"data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_VALUES,):
        found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise ImageError(path, f"its data are {found}, expected uint8 (N, {_VALUES})", INTACT_COPY)
    return pixels


def _entry(path: Path, content: Any, key: bytes) -> Any:
    """Return an entry of a dictionary, whose keys are bytes where Python 2 wrote it."""
    found = content if isinstance(content, dict) else {}
    value = found.get(key, found.get(key.decode()))
    if value is None:
        raise ImageError(path, f"has no entry '{key.decode()}'", "take the file of the Python version")
    return value
