"""Read 2D DICOM images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lightning_pocket.data.integrity import INTACT_COPY, ImageError

_MAGIC = (128, b"DICM")  # what a DICOM file holds at this byte
_PIXEL_SPACING, _STORED_BITS, _SIGNED = "0028|0030", "0028|0101", "0028|0103"
_INTERCEPT, _SLOPE = "0028|1052", "0028|1053"
_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")  # the tag (7FE0,0010), in either order of bytes
_DEFLATED = b"1.2.840.10008.1.2.1.99"  # transfer syntax of files that hide it by compression


def is_dicom(path: Path) -> bool:
    """Tell whether a file is a DICOM file by its content."""
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC[0])
            return file.read(len(_MAGIC[1])) == _MAGIC[1]
    except OSError:
        return False


def read_dicom(path: Path) -> tuple[np.ndarray, float | None, tuple[float, float] | None]:
    """Read a DICOM file of one frame.

    Grey values are those after the rescale of the file, without its window. ITK turns an inverted image
    (``MONOCHROME1``), so that larger values are brighter.

    Args:
        path: The file.

    Returns:
        Pixels ``(H, W)`` or ``(H, W, 3)``; the largest value that its bits can hold after the rescale, None where
        values may be negative; and height and width of a pixel in mm as Pixel Spacing (0028,0030) says, None where it
        does not.

    Raises:
        ImageError: If the file cannot be read, has no Pixel Data (7FE0,0010), or holds several frames.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        image = reader.Execute()
    except RuntimeError as error:  # the only exception of SimpleITK
        if _lacks_pixels(path):
            remedy = "take it out if it is a report or the like, or " + INTACT_COPY
            raise ImageError(path, "holds no pixel data (7FE0,0010)", remedy) from error
        raise ImageError(path, "cannot be read as DICOM", INTACT_COPY) from error
    frames = image.GetSize()[2] if image.GetDimension() > 2 else 1
    if frames > 1:
        raise ImageError(path, f"has {frames} frames", "store each as an image of its own")
    pixels = sitk.GetArrayFromImage(image)
    pixels = pixels[0] if image.GetDimension() > 2 else pixels
    tags = {key: image.GetMetaData(key).strip() for key in image.GetMetaDataKeys()}
    return pixels, _highest(tags), _pixel_mm(tags)


def _lacks_pixels(path: Path) -> bool:
    """Tell whether there is no Pixel Data in a file that could not be read."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return _DEFLATED not in content and not any(tag in content for tag in _PIXELS)


def _highest(tags: Mapping[str, str]) -> float | None:
    """Return the largest value that a pixel can have; that of the image itself would make images incomparable."""
    bits = _number(tags.get(_STORED_BITS, ""))
    slope, intercept = _number(tags.get(_SLOPE, "1")), _number(tags.get(_INTERCEPT, "0"))
    if bits is None or slope is None or intercept is None or tags.get(_SIGNED, "0") != "0":
        return None
    return slope * (2**bits - 1) + intercept if slope > 0 and intercept >= 0 else None


def _pixel_mm(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """Return height and width of a pixel: ITK's own spacing is that at the detector for some kinds of X-rays."""
    sizes = [_number(part) for part in tags.get(_PIXEL_SPACING, "").split("\\")]
    if len(sizes) != 2 or sizes[0] is None or sizes[1] is None or min(sizes[0], sizes[1]) <= 0:
        return None
    return sizes[0], sizes[1]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
