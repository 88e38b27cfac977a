"""Images that cannot be trusted: what an error says of them, and faults of NIfTI files that ITK hides.

ITK reads a truncated ``.nii.gz`` without an error and fills the missing voxels with zeros, so that half a volume looks
like a whole one; it also turns NaN and infinite voxels into zeros. The bytes are checked here before ITK reads them.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typing_extensions import override

from lightning_pocket.errors import PocketError

_CHUNK = 1 << 20  # bytes
_HEADER = 544  # bytes that hold the header of NIfTI-1 (348) or NIfTI-2 (540)
_FLOATS = {16: "f4", 64: "f8"}  # NIfTI's codes of the types that can be NaN


class ImageError(PocketError):
    """An image that cannot be used.

    Args:
        path: The file or folder.
        finding: What is wrong with it, as a clause.
        remedy: What mends it, as a clause.
    """

    def __init__(self, path: Path, finding: str, remedy: str) -> None:
        super().__init__(path, finding, remedy)  # all of them, so that the error can be pickled between processes
        self.path, self.finding, self.remedy = path, finding, remedy

    @override
    def __str__(self) -> str:
        return f"{self.path}: {self.finding}; {self.remedy}."


INTACT_COPY = "replace it by an intact copy"
FINITE_VALUES = "replace them by the value of air, often 0"


def verify(path: Path) -> None:
    """Check that a NIfTI file holds all the voxels that its header announces, and that they are numbers.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; other files are left to ITK, which refuses them when they are truncated.

    Raises:
        ImageError: If the file is truncated or damaged, or has voxels that are NaN or infinite.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    try:
        with gzip.open(path, "rb") if name.endswith(".gz") else path.open("rb") as stream:
            start = stream.read(_HEADER)
            if any(len(start) >= 4 and struct.unpack_from(f"{order}i", start)[0] == 540 for order in "<>"):
                raise ImageError(path, "is a NIfTI-2 file, which ITK cannot read", "save it as NIfTI-1")
            voxels = _parse(start)
            found, bad = _scan(stream, start, voxels)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(path, f"truncated or damaged ({str(error).rstrip('.')})", INTACT_COPY) from error
    expected = voxels.offset + voxels.length
    if found < expected:
        raise ImageError(path, f"truncated, {found:,} of {expected:,} bytes are there", INTACT_COPY)
    if bad:
        raise ImageError(path, f"NaN or infinite voxels: {bad:,}", FINITE_VALUES)


@dataclass(frozen=True)
class _Voxels:
    """Where the voxels are: first byte, number of bytes, and NumPy type of floats (None for other types)."""

    offset: int
    length: int
    floats: np.dtype[np.floating] | None


def _parse(header: bytes) -> _Voxels:
    """Read a NIfTI-1 or NIfTI-2 header; ITK says what is wrong with anything else."""
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(f"{order}i", header)[0] == 348:
            dims = struct.unpack_from(f"{order}8h", header, 40)
            code, bits = struct.unpack_from(f"{order}2h", header, 70)
            offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
        elif len(header) >= 540 and struct.unpack_from(f"{order}i", header)[0] == 540:
            code, bits = struct.unpack_from(f"{order}2h", header, 12)
            dims = struct.unpack_from(f"{order}8q", header, 16)
            offset = struct.unpack_from(f"{order}q", header, 168)[0]
        else:
            continue
        count = 1
        for size in dims[1 : 1 + max(0, min(dims[0], 7))]:
            count *= max(size, 1)
        floats = np.dtype(order + _FLOATS[code]) if code in _FLOATS else None
        return _Voxels(max(offset, 0), count * bits // 8, floats)
    return _Voxels(0, 0, None)


def _scan(stream: io.BufferedIOBase, start: bytes, voxels: _Voxels) -> tuple[int, int]:
    """Read to the end; return the number of bytes and how many voxels are NaN or infinite."""
    found = bad = 0
    pending = b""
    chunk = start
    while chunk:
        first, last = voxels.offset - found, voxels.offset + voxels.length - found
        found += len(chunk)
        if voxels.floats is not None:
            pending += chunk[max(first, 0) : max(last, 0)]
            whole = len(pending) // voxels.floats.itemsize
            bad += whole - int(np.isfinite(np.frombuffer(pending, voxels.floats, whole)).sum())
            pending = pending[whole * voxels.floats.itemsize :]
        chunk = stream.read(_CHUNK)
    return found, bad
