"""Read 2D DICOM images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_pocket.data.integrity import INTACT_COPY, ImageError

_MAGIC = (128, b"DICM")  # what a DICOM file holds at this byte
_PHOTOMETRIC, _PIXEL_SPACING, _STORED_BITS = "0028|0004", "0028|0030", "0028|0101"


def is_dicom(path: Path) -> bool:
    """Tell whether a file is a DICOM file by its content."""
    try:
        with path.open("rb") as file:
            file.seek(_MAGIC[0])
            return file.read(len(_MAGIC[1])) == _MAGIC[1]
    except OSError:
        return False


def read_dicom(path: Path) -> tuple[np.ndarray, int | None, tuple[float, float] | None]:
    """Read a DICOM file of one frame.

    Grey values are those after the rescale of the file, without its window. An inverted image (``MONOCHROME1``) is
    turned, so that larger values are brighter.

    Args:
        path: The file.

    Returns:
        Pixels ``(H, W)`` or ``(H, W, 3)``; the largest value that its bits can hold, None where values may be negative;
        and height and width of a pixel in mm, None where the file does not tell.

    Raises:
        ImageError: If the file cannot be read, or holds several frames.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("GDCMImageIO")
    try:
        image = reader.Execute()
    except RuntimeError as error:  # the only exception of SimpleITK
        raise ImageError(path, "cannot be read as DICOM", INTACT_COPY) from error
    frames = image.GetSize()[2] if image.GetDimension() > 2 else 1
    if frames > 1:
        raise ImageError(path, f"has {frames} frames", "store each as an image of its own")
    pixels = sitk.GetArrayFromImage(image)
    pixels = pixels[0] if image.GetDimension() > 2 else pixels
    tags = {key: image.GetMetaData(key).strip() for key in image.GetMetaDataKeys()}
    bits = tags.get(_STORED_BITS, "")
    unsigned = pixels.dtype.kind == "u"
    highest = 2 ** int(bits) - 1 if unsigned and bits.isdecimal() else None
    if highest is not None and pixels.max(initial=0) > highest:  # rescaled beyond the stored bits
        highest = None
    if tags.get(_PHOTOMETRIC) == "MONOCHROME1":
        pixels = (highest if highest is not None else pixels.min() + pixels.max()) - pixels
    spacing = image.GetSpacing()
    known = _PIXEL_SPACING in tags
    return pixels, highest, (float(spacing[1]), float(spacing[0])) if known else None
