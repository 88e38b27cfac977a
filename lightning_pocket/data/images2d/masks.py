"""Read the masks of 2D images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase

from .coding import MaskCoding
from .dicom import is_dicom, read_dicom
from .outline import fill_outline
from .read import opened

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)
_MOST_SHOWN = 5  # values of a mask that an error names


@dataclass(frozen=True)
class RawMask:
    """A mask as it is stored.

    Args:
        pixels: ``(H, W)``: grey values, indices of a palette, or colours as ``0xRRGGBB``.
        kind: Which of them.
    """

    pixels: np.ndarray
    kind: str  # "grey", "palette" or "colours"


@dataclass(frozen=True)
class Mask:
    """The merged masks of an image.

    Args:
        label: ``(H, W)`` uint8 class indices.
        smoothed: Pixels whose grey value a threshold decides.
    """

    label: np.ndarray
    smoothed: int = 0


def read_raw_mask(path: Path, colours: bool = False) -> RawMask:
    """Read a mask file; an orientation that EXIF states is applied, as it is to images.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or DICOM.
        colours: Return colours, also of palettes and grey masks. A palette of black and white counts as grey.

    Raises:
        ImageError: If it cannot be read, or has grey values that are no whole numbers from 0.
    """
    if is_dicom(path):
        pixels, _, _ = read_dicom(path)
        return RawMask(_pack(pixels), "colours") if pixels.ndim == 3 else RawMask(_whole(path, pixels), "grey")
    from PIL import ImageOps

    with opened(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode == "P" and _is_black_and_white(image.getpalette() or ()):
            image = image.convert("L")  # whichever index is white
        if image.mode == "P" and not colours:
            return RawMask(np.array(image), "palette")
        if image.mode in {"L", "1"} or image.mode.startswith("I;16") or image.mode in {"I", "F"}:
            found = _whole(path, np.array(image.convert("L") if image.mode == "1" else image))
            return RawMask(_pack(np.stack([found] * 3, -1)) if colours else found, "colours" if colours else "grey")
        if image.mode == "LA" and not colours:
            return RawMask(np.array(image.getchannel("L")), "grey")
        planes = np.array(image.convert("RGB"))  # transparency means nothing in a mask
    grey = bool((planes[..., :1] == planes).all())
    return RawMask(planes[..., 0], "grey") if grey and not colours else RawMask(_pack(planes), "colours")


def read_mask(path: Path, coding: MaskCoding, shape: tuple[int, int] | None = None) -> Mask:
    """Read one mask as class indices.

    Args:
        path: The file.
        coding: What its values mean.
        shape: Rows and columns that it must have.

    Raises:
        ImageError: If it cannot be read, has another size, is in colours where values are expected, or has values that
            mean nothing; with a threshold if it has values, but none that reaches it.
    """
    raw = read_raw_mask(path, coding.kind == "colours")
    if shape is not None:
        _refuse_size(path, raw.pixels, shape)
    if raw.kind == "colours" and coding.kind != "colours":
        remedy = "declare the classes with --classes background=#000000,NAME=#RRGGBB, or store grey values"
        raise ImageError(path, "the mask is in colours", remedy)
    label, undeclared = coding.decode(raw.pixels)
    pixels = int(np.isin(raw.pixels, undeclared).sum()) if undeclared.size else 0
    if coding.kind == "threshold":
        _refuse_faint(path, int(raw.pixels.max(initial=0)), coding)
    elif pixels:
        shown = ", ".join(map(coding.show, undeclared[:_MOST_SHOWN])) + (", ..." * (len(undeclared) > _MOST_SHOWN))
        known = ", ".join(map(coding.show, coding.labels))
        remedy = f"classes are {known}: mend the mask, which must not be smoothed, or declare more with --classes"
        raise ImageError(path, f"{pixels:,} pixels of the mask are no class ({shown})", remedy)
    return Mask(fill_outline(label) if coding.outlined else label, pixels)


def _refuse_faint(path: Path, highest: int, coding: MaskCoding) -> None:
    """Refuse a mask that marks something, of which a threshold would leave nothing."""
    if 0 < highest < coding.threshold:
        finding = f"its largest value is {highest}, that of the others {max(coding.labels)}"
        raise ImageError(path, finding, "store it with the values of the others, or declare --classes NAME=VALUE")


def read_masks(case: ImageCase, coding: MaskCoding, shape: Sequence[int]) -> Mask:
    """Read and merge the masks of an image: a pixel has the class that any of them gives it.

    Args:
        case: The image; without masks nothing is marked.
        coding: What the values of the masks mean.
        shape: Rows and columns of the image.

    Raises:
        ImageError: If a mask cannot be read (see :func:`read_mask`) or has another size than the image, or two masks
            give a pixel different classes.
    """
    height, width = shape
    label = np.zeros((height, width), np.uint8)
    smoothed = 0
    for path in case.masks:
        mask = read_mask(path, coding, (height, width))
        both = (label != 0) & (mask.label != 0) & (label != mask.label)
        if both.any():
            finding = f"gives {int(both.sum()):,} pixels another class than another mask of the image"
            raise ImageError(path, finding, "draw each pixel in one mask, or store one mask for all classes")
        label = np.maximum(label, mask.label)
        smoothed += mask.smoothed
    return Mask(label, smoothed)


def check_mask_files(case: ImageCase, shape: tuple[int, int]) -> None:
    """Check what can be said of the masks of an image before their values have a meaning.

    Args:
        case: The image.
        shape: Its rows and columns.

    Raises:
        ImageError: If a mask cannot be read, or has another size than the image.
    """
    for path in case.masks:
        _refuse_size(path, read_raw_mask(path).pixels, shape)


def _refuse_size(path: Path, pixels: np.ndarray, shape: tuple[int, int]) -> None:
    if pixels.shape != shape:
        sizes = [" x ".join(map(str, size)) for size in (pixels.shape, shape)]
        finding = f"the mask is {sizes[0]} pixels (H x W), its image {sizes[1]}"
        raise ImageError(path, finding, "give it the size of the image, by nearest neighbours")


def _whole(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Return grey values as whole numbers from 0."""
    remedy = "store the class of each pixel, a whole number from 0"
    if pixels.dtype.kind == "f":
        bad = pixels.size - int(np.isfinite(pixels).sum())
        if bad:
            raise ImageError(path, f"NaN or infinite pixels of the mask: {bad:,}", remedy)
        if (pixels != np.round(pixels)).any():
            shown = pixels[pixels != np.round(pixels)][0]
            raise ImageError(path, f"values of the mask are not whole numbers ({shown:g})", remedy)
    if pixels.min(initial=0) < 0:
        raise ImageError(path, f"values of the mask are negative ({pixels.min():g})", remedy)
    return pixels.astype(np.int64) if pixels.dtype.kind == "f" else pixels


def _is_black_and_white(palette: Sequence[int]) -> bool:
    return {tuple(palette[first : first + 3]) for first in range(0, len(palette), 3)} == {_BLACK, _WHITE}


def _pack(planes: np.ndarray) -> np.ndarray:
    """Return colours ``(H, W, 3)`` as ``0xRRGGBB`` ``(H, W)``."""
    red, green, blue = np.moveaxis(planes.astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue
