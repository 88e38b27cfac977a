"""Writer of DICOM files by hand, byte for byte, so that no library is its own reference."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

#: Kinds of images (SOP classes).
ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
COMPUTED_RADIOGRAPHY = "1.2.840.10008.5.1.4.1.1.1"
DIGITAL_XRAY = "1.2.840.10008.5.1.4.1.1.1.1"
MAMMOGRAM = "1.2.840.10008.5.1.4.1.1.1.2"

_EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
_LONG = {"OB", "OW"}  # their lengths have four bytes


def write_dicom(
    path: Path,
    stored: np.ndarray,
    kind: str = ULTRASOUND,
    spacing: str | None = "0.3\\0.2",
    detector_spacing: str | None = None,
    photometric: str | None = None,
    bits: int | None = None,
    rescale: tuple[str, str] | None = None,
    signed: bool = False,
) -> Path:
    """Write a DICOM file of one frame.

    Args:
        path: The file.
        stored: ``(H, W)`` or ``(H, W, 3)`` stored values of 8 or 16 bits.
        kind: SOP class.
        spacing: Pixel Spacing, height and width in mm.
        detector_spacing: Imager Pixel Spacing.
        photometric: Photometric Interpretation; by default ``MONOCHROME2`` or ``RGB``.
        bits: Bits Stored; by default those of the type.
        rescale: Slope and intercept.
        signed: Whether stored values are signed.
    """
    allocated = 8 * stored.dtype.itemsize
    bits = bits or allocated
    planes = 1 if stored.ndim == 2 else 3
    elements = [
        _element(0x0008, 0x0016, "UI", kind),
        _element(0x0008, 0x0018, "UI", "1.2.3.4"),
        _element(0x0018, 0x1164, "DS", detector_spacing),
        _element(0x0028, 0x0002, "US", planes),
        _element(0x0028, 0x0004, "CS", photometric or ("MONOCHROME2" if planes == 1 else "RGB")),
        _element(0x0028, 0x0006, "US", 0 if planes == 3 else None),
        _element(0x0028, 0x0010, "US", stored.shape[0]),
        _element(0x0028, 0x0011, "US", stored.shape[1]),
        _element(0x0028, 0x0030, "DS", spacing),
        _element(0x0028, 0x0100, "US", allocated),
        _element(0x0028, 0x0101, "US", bits),
        _element(0x0028, 0x0102, "US", bits - 1),
        _element(0x0028, 0x0103, "US", int(signed)),
        _element(0x0028, 0x1052, "DS", rescale and rescale[1]),
        _element(0x0028, 0x1053, "DS", rescale and rescale[0]),
        _element(0x7FE0, 0x0010, "OB" if allocated == 8 else "OW", stored.astype(stored.dtype.newbyteorder("<"))),
    ]
    meta = b"".join(
        [
            _element(0x0002, 0x0001, "OB", np.array([0, 1], np.uint8)),
            _element(0x0002, 0x0002, "UI", kind),
            _element(0x0002, 0x0003, "UI", "1.2.3.4"),
            _element(0x0002, 0x0010, "UI", _EXPLICIT_LITTLE_ENDIAN),
        ]
    )
    length = _element(0x0002, 0x0000, "UL", np.array([len(meta)], "<u4"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(128) + b"DICM" + length + meta + b"".join(elements))
    return path


def _element(group: int, element: int, kind: str, value: str | int | np.ndarray | None) -> bytes:
    """Return one element (PS3.5, 7.1.2), nothing where it has no value."""
    if value is None:
        return b""
    if isinstance(value, int):
        content = struct.pack("<H", value)
    else:
        content = value.encode() if isinstance(value, str) else value.tobytes()
    content += (b"\0" if kind in ("UI", "OB") else b" ") * (len(content) % 2)
    head = struct.pack("<HH", group, element) + kind.encode()
    size = b"\0\0" + struct.pack("<I", len(content)) if kind in _LONG else struct.pack("<H", len(content))
    return head + size + content
