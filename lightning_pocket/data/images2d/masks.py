"""Read the masks of 2D images, and find out what their values mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.errors import PocketError

from .coding import BACKGROUND, MaskCoding
from .dicom import is_dicom, read_dicom
from .outline import fill_outline
from .read import opened

#: Most values that are taken for classes: a photograph has hundreds.
_MOST_CLASSES = 32
_BYTE, _WORD = 255, 65535


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
        strange: Values that are none of the declared; with a threshold those of smoothed edges.
        strange_pixels: How many pixels have them.
    """

    label: np.ndarray
    strange: list[int] = field(default_factory=list)
    strange_pixels: int = 0


def read_raw_mask(path: Path, colours: bool = False) -> RawMask:
    """Read a mask file; an orientation that EXIF states is applied, as it is to images.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or DICOM.
        colours: Return colours, also of palettes and grey masks.

    Raises:
        ImageError: If it cannot be read.
    """
    if is_dicom(path):
        pixels, _, _ = read_dicom(path)
        return RawMask(_pack(pixels) if pixels.ndim == 3 else pixels, "colours" if pixels.ndim == 3 else "grey")
    from PIL import ImageOps

    with opened(path) as file:
        image = ImageOps.exif_transpose(file)
        if image.mode == "P" and not colours:
            return RawMask(np.array(image), "palette")
        if image.mode in {"L", "1"} or image.mode.startswith("I;16") or image.mode in {"I", "F"}:
            found = np.array(image.convert("L") if image.mode == "1" else image)
            return RawMask(_pack(np.stack([found] * 3, -1)) if colours else found, "colours" if colours else "grey")
        if image.mode == "LA" and not colours:
            return RawMask(np.array(image.getchannel("L")), "grey")
        planes = np.array(image.convert("RGB"))  # transparency means nothing in a mask
    grey = bool((planes[..., :1] == planes).all())
    return RawMask(planes[..., 0], "grey") if grey and not colours else RawMask(_pack(planes), "colours")


def read_mask(path: Path, coding: MaskCoding) -> Mask:
    """Read one mask as class indices.

    Args:
        path: The file.
        coding: What its values mean.

    Raises:
        ImageError: If it cannot be read, or is in colours where values are expected.
    """
    raw = read_raw_mask(path, coding.kind == "colours")
    if raw.kind == "colours" and coding.kind != "colours":
        remedy = "declare the classes with --classes background=#000000,NAME=#RRGGBB, or store grey values"
        raise ImageError(path, "the mask is in colours", remedy)
    label, strange = coding.decode(raw.pixels)
    pixels = int(np.isin(raw.pixels, strange).sum()) if strange.size else 0
    return Mask(fill_outline(label) if coding.outlined else label, strange.tolist(), pixels)


def read_masks(case: ImageCase, coding: MaskCoding, shape: Sequence[int]) -> Mask:
    """Read and merge the masks of an image: a pixel has the class that any of them gives it.

    Args:
        case: The image; without masks nothing is marked.
        coding: What the values of the masks mean.
        shape: Rows and columns of the image.

    Raises:
        ImageError: If a mask cannot be read or has another size than the image, or two masks give a pixel different
            classes.
    """
    height, width = shape
    label = np.zeros((height, width), np.uint8)
    strange: set[int] = set()
    pixels = 0
    for path in case.masks:
        mask = read_mask(path, coding)
        if mask.label.shape != label.shape:
            found = " x ".join(map(str, mask.label.shape))
            finding = f"the mask is {found} pixels (H x W), its image {height} x {width}"
            raise ImageError(path, finding, "give it the size of the image, by nearest neighbours")
        both = (label != 0) & (mask.label != 0) & (label != mask.label)
        if both.any():
            finding = f"gives {int(both.sum()):,} pixels another class than another mask of the image"
            raise ImageError(path, finding, "draw each pixel in one mask, or store one mask for all classes")
        label = np.maximum(label, mask.label)
        strange |= set(mask.strange)
        pixels += mask.strange_pixels
    return Mask(label, sorted(strange), pixels)


def mask_values(path: Path) -> tuple[str, list[int]]:
    """Return the kind of a mask, see ``RawMask``, and the values in it.

    Raises:
        ImageError: If it cannot be read, or has values that are no whole numbers from 0.
    """
    raw = read_raw_mask(path)
    values = np.unique(raw.pixels)
    if not (np.isfinite(values).all() and (values == np.round(values)).all() and values.min() >= 0):
        raise ImageError(path, "the values of the mask are not whole numbers from 0", "store the class of each pixel")
    return raw.kind, [int(value) for value in values]


def find_coding(found: Iterable[tuple[str, Sequence[int]]], names: tuple[str, str]) -> MaskCoding:
    """Find out what the values of masks mean where nobody says.

    One value beside 0 is a class. Grey values up to 255 or 65535 are taken for a mask of two values with smoothed
    edges. Other grey values, and indices of a palette, are a class each, and so are colours, of which black is the
    background.

    Args:
        found: Kind and values of each mask, from :func:`mask_values`.
        names: Names of background and class of masks of two values.

    Raises:
        PocketError: If that is not possible.
    """
    found = list(found)
    kinds = {kind for kind, _ in found}
    values = sorted({value for _, own in found for value in own} | {0})
    colours = "colours" in kinds
    smooth = not colours and "palette" not in kinds and values[-1] in (_BYTE, _WORD)
    if len(values) == 1 or (not colours and (len(values) == 2 or smooth)):
        highest = values[-1] or _BYTE
        return MaskCoding("threshold", {0: names[0], highest: names[1]})
    if len(values) > _MOST_CLASSES:
        raise PocketError(
            f"classes: the masks have {len(values):,} different {'colours' if colours else 'values'}; declare the "
            f"classes with --classes {'background=#000000,NAME=#RRGGBB' if colours else 'background,NAME=VALUE'}."
        )
    if colours and len(kinds) > 1 and kinds != {"colours", "grey"}:
        raise PocketError("classes: some masks are in colours and others have a palette; declare --classes by colour.")
    if colours:
        grey = {value * 0x10101 for kind, own in found if kind == "grey" for value in own}
        every = sorted({value for kind, own in found if kind == "colours" for value in own} | grey | {0})
        return MaskCoding("colours", {value: f"#{value:06x}" if value else BACKGROUND for value in every})
    return MaskCoding("values", {value: f"label_{value}" if value else BACKGROUND for value in values})


def _pack(planes: np.ndarray) -> np.ndarray:
    """Return colours ``(H, W, 3)`` as ``0xRRGGBB`` ``(H, W)``."""
    red, green, blue = np.moveaxis(planes.astype(np.int64), -1, 0)
    return (red << 16) | (green << 8) | blue
