"""Images that cannot be trusted: what an error says of them, and truncated or damaged NIfTI files.

ITK reads a truncated ``.nii.gz`` without an error and fills the missing voxels with zeros, so that half a volume looks
like a whole one. The length that the header announces and the checksum of the compressed stream are checked here.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

from typing_extensions import override

from lightning_pocket.errors import PocketError

_CHUNK = 1 << 20  # bytes


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


def verify(path: Path) -> None:
    """Check that a NIfTI file holds all the voxels that its header announces.

    Args:
        path: A ``.nii`` or ``.nii.gz`` file; other files are left to ITK, which refuses them when they are truncated.

    Raises:
        ImageError: If the file is truncated or damaged.
    """
    name = path.name.lower()
    if not name.endswith((".nii", ".nii.gz")):
        return
    try:
        expected, found = _measure(path, compressed=name.endswith(".gz"))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ImageError(path, f"truncated or damaged ({str(error).rstrip('.')})", INTACT_COPY) from error
    if found < expected:
        raise ImageError(path, f"truncated, {found:,} of {expected:,} bytes are there", INTACT_COPY)


def _measure(path: Path, compressed: bool) -> tuple[int, int]:
    """Return the bytes that the header announces and the bytes that are there."""
    if not compressed:
        with path.open("rb") as file:
            return _expected_bytes(file.read(544)), path.stat().st_size
    with gzip.open(path, "rb") as stream:
        header = stream.read(544)
        found = len(header)
        while chunk := stream.read(_CHUNK):
            found += len(chunk)
    return _expected_bytes(header), found


def _expected_bytes(header: bytes) -> int:
    """Return header plus voxels in bytes, from a NIfTI-1 or NIfTI-2 header; 0 where it is neither."""
    for order in "<>":
        if len(header) >= 348 and struct.unpack_from(f"{order}i", header)[0] == 348:
            dims = struct.unpack_from(f"{order}8h", header, 40)
            bits = struct.unpack_from(f"{order}h", header, 72)[0]
            offset = int(struct.unpack_from(f"{order}f", header, 108)[0])
            return _total(dims, bits, offset)
        if len(header) >= 540 and struct.unpack_from(f"{order}i", header)[0] == 540:
            dims = struct.unpack_from(f"{order}8q", header, 16)
            bits = struct.unpack_from(f"{order}h", header, 14)[0]
            return _total(dims, bits, struct.unpack_from(f"{order}q", header, 168)[0])
    return 0


def _total(dims: tuple[int, ...], bits: int, offset: int) -> int:
    voxels = 1
    for size in dims[1 : 1 + max(0, min(dims[0], 7))]:
        voxels *= max(size, 1)
    return max(offset, 0) + voxels * bits // 8
