"""The handwritten digits that scikit-learn brings along: 1797 images of 8 x 8 pixels, for trying without any download.

They are the test images of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, UCI Machine Learning
Repository, 1998). Their file is read as it lies in scikit-learn's folder; the library itself is not imported.
"""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from typing_extensions import override

from lightning_pocket.data.integrity import INTACT_COPY, ImageError
from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout

#: What stands for the file on the command line.
DIGITS = "digits"
_FILE = "digits.csv.gz"
_SIZE = (8, 8)
_HIGHEST = 16  # a pixel counts the dark ones of 4 x 4


def bundled_digits() -> Path:
    """Return the file with the digits in the folder of scikit-learn.

    Raises:
        PocketError: If scikit-learn is not installed, or came without it.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise PocketError(
            f"{DIGITS}: come with scikit-learn, which is not installed; run `pip install 'lightning-pocket[digits]'`."
        )
    path = Path(found.origin).parent / "datasets" / "data" / _FILE
    if not path.is_file():
        raise PocketError(f"{DIGITS}: {path} is missing; install scikit-learn again.")
    return path


class Digits(ImageLayout):
    """The file ``digits.csv.gz`` of scikit-learn, also called ``digits``: a line of 64 pixels and a class per image.

    There is no official split: five folds are made, with their share of each class. Pixels from 0 to 16 are spread over
    0 to 255. Image 12 is called ``digit_0012``.
    """

    name = DIGITS
    expects = f"the file {_FILE} of scikit-learn; `{DIGITS}` finds it"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.size = _SIZE
        self._targets = _table(root)[:, -1]
        self.class_names = [str(digit) for digit in range(10)]

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return root.is_file() and root.name == _FILE

    @override
    def image_cases(self) -> list[ImageCase]:
        return [
            ImageCase(f"digit_{row:04d}", (self.root,), None, class_name=str(target), member=(DIGITS, row))
            for row, target in enumerate(self._targets.tolist())
        ]


def read_digit_images(path: Path) -> np.ndarray:
    """Read the images.

    Args:
        path: The file ``digits.csv.gz``.

    Returns:
        ``(N, 8, 8)`` uint8, from 0 to 255.

    Raises:
        ImageError: If it is damaged.
    """
    pixels = _table(path)[:, :-1].reshape(-1, *_SIZE)
    return np.round(pixels * (255 / _HIGHEST)).astype(np.uint8)


@lru_cache(maxsize=1)
def _table(path: Path) -> np.ndarray:
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, delimiter=",", dtype=np.float64, ndmin=2).astype(np.int64)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ImageError(path, f"truncated or damaged ({str(error).rstrip('.')})", INTACT_COPY) from error
    columns = _SIZE[0] * _SIZE[1] + 1
    if table.shape[1:] != (columns,) or table.min() < 0 or table[:, :-1].max() > _HIGHEST or table[:, -1].max() > 9:
        finding = f"holds lines of {table.shape[1]} numbers up to {table.max()}"
        raise ImageError(path, f"{finding}, expected {columns} from 0 to {_HIGHEST}, the last a digit", INTACT_COPY)
    return table
