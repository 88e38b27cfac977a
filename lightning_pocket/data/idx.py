"""Reads idx files, the format of MNIST: a magic number, the size along each axis, and the values (LeCun and Cortes).

The magic number is two zero bytes, the type of the values and the number of axes; all numbers are big-endian.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from .integrity import INTACT_COPY, ImageError

_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_GZIP = b"\x1f\x8b"
_MOST_BYTES = 1 << 32  # a small file can be made to fill the memory


def read_idx(path: Path, axes: int) -> np.ndarray:
    """Read an idx file, compressed with gzip or not.

    Args:
        path: The file.
        axes: Number of axes that it must have: 1 for labels, 3 for images.

    Returns:
        The values, uint8 for MNIST and its relatives.

    Raises:
        ImageError: If it is damaged or truncated, holds more than it says, or is no idx file of so many axes.
    """
    content = _read(path)
    head = 4 + 4 * axes
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES or content[3] != axes:
        expected = b"\0\0\x08" + bytes([axes])
        found = f"0x{content[:4].hex()}" if content else "nothing"
        raise ImageError(
            path, f"begins with {found}, expected the magic number 0x{expected.hex()}", "give it the file of its name"
        )
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, head, 4))
    kind = np.dtype(_TYPES[content[2]])
    expected_bytes = math.prod(shape) * kind.itemsize + head
    if len(content) != expected_bytes:
        size = " x ".join(map(str, shape))
        finding = f"has {len(content):,} bytes, expected {expected_bytes:,} for {size} values"
        raise ImageError(path, finding, INTACT_COPY)
    return np.frombuffer(content, kind, offset=head).reshape(shape)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as stream:
            content: bytes = stream.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(path, f"truncated or damaged ({str(error).rstrip('.')})", INTACT_COPY) from error
    if len(content) > _MOST_BYTES:
        raise ImageError(path, f"unpacks to more than {_MOST_BYTES:,} bytes", INTACT_COPY)
    return content
