"""Pictures of a case: image, ground truth and prediction side by side."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_pocket.storage import partial_path

from .overlay import class_colour, draw_overlay, resize
from .slices import CaseSlices, slice_case

if TYPE_CHECKING:  # commands that draw nothing need not wait for Pillow
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_BACKGROUND = (17, 17, 17)
_TEXT = (235, 235, 235)
_MARGIN = 10
_LINE = 22
_FONT_SIZE = 15
_SWATCH = 12
_NARROWEST = 110  # fits the headings
_HEADINGS = ("image", "ground truth", "prediction")


def render_case(
    image: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    spacing: Sequence[float] | None,
    classes: Sequence[str],
    panel: int = 288,
) -> np.ndarray:
    """Draw a case: the slices with most foreground as rows; image, ground truth and prediction as columns.

    Args:
        image: ``(C, *S)`` or ``(*S)`` intensities, 2D (H, W) or 3D (D, H, W); channel 0 is shown.
        truth: ``(*S)`` class of each voxel; values that are no class, such as 255, are not drawn.
        predicted: ``(*S)`` class of each voxel.
        spacing: Voxel size in mm along each spatial axis; None for voxels of equal sides.
        classes: Names of the classes; the first is background and is not drawn.
        panel: Longest side of a slice in pixels.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        PocketError: If the arrays or the spacing do not fit each other.
    """
    return draw_slices(slice_case(image, truth, predicted, spacing, len(classes)), classes, panel)


def draw_slices(case: CaseSlices, classes: Sequence[str], panel: int = 288) -> np.ndarray:
    """Draw slices, all at the same scale, with headings and the names of the classes that are seen.

    Args:
        case: What ``slice_case`` returned.
        classes: Names of the classes; the first is background.
        panel: Longest side of a slice in pixels.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = panel / max(max(shown.size_mm) for shown in case.slices)
    rows = [_panels(case, index, scale, len(classes)) for index in range(len(case.slices))]
    column = max(_NARROWEST, *(row[0].shape[1] for row in rows))
    lefts = [_MARGIN + index * (column + _MARGIN) for index in range(len(_HEADINGS))]
    width = lefts[-1] + column + _MARGIN
    font = ImageFont.load_default(_FONT_SIZE)
    names = {k: classes[k] for k in _seen(case, len(classes))}
    legend = _place(names, width, font)
    lines = 1 + max((line for _, line in legend.values()), default=-1)
    height = _LINE + _MARGIN + sum(row[0].shape[0] + _MARGIN for row in rows) + lines * _LINE

    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for left, heading in zip(lefts, _HEADINGS, strict=True):
        draw.text((left, _MARGIN // 2), heading, fill=_TEXT, font=font)
    top = _LINE + _MARGIN
    for row in rows:
        for left, pixels in zip(lefts, row, strict=True):
            canvas.paste(Image.fromarray(pixels), (left + (column - pixels.shape[1]) // 2, top))
        top += row[0].shape[0] + _MARGIN
    _draw_legend(draw, names, legend, top, font)
    return np.array(canvas)


def png_bytes(array: np.ndarray) -> bytes:
    """Return a picture ``(H, W, 3)`` uint8 as a PNG file."""
    from PIL import Image

    data = io.BytesIO()
    Image.fromarray(array).save(data, format="PNG")  # optimize=True takes up to nine times as long, for a tenth less
    return data.getvalue()


def write_png(path: Path, array: np.ndarray) -> None:
    """Write a picture, whole or not at all.

    Args:
        path: File to write; missing folders are made.
        array: ``(H, W, 3)`` uint8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.write_bytes(png_bytes(array))
    partial.replace(path)


def picture_name(subject: str) -> str:
    """Return the file name of the picture of a case; what a file name may not hold becomes ``_``."""
    return re.sub(r"[^\w.-]", "_", subject) + ".png"


def _panels(case: CaseSlices, index: int, scale: float, classes: int) -> list[np.ndarray]:
    """Return the three panels ``(H, W, 3)`` of a slice, with square pixels."""
    shown = case.slices[index]
    height, width = (max(1, round(side * scale)) for side in shown.size_mm)
    grey = resize(case.grey(index), height, width, smooth=True)
    pixels = np.repeat(grey[..., None], 3, axis=2)
    labels = [np.where(label < classes, label, 0).astype(np.uint8) for label in (shown.truth, shown.predicted)]
    return [pixels, *(draw_overlay(pixels, resize(label, height, width, smooth=False)) for label in labels)]


def _seen(case: CaseSlices, classes: int) -> list[int]:
    values = np.concatenate([np.unique([s.truth, s.predicted]) for s in case.slices])
    return [int(k) for k in np.unique(values) if 0 < k < classes]


def _place(names: dict[int, str], width: int, font: FreeTypeFont | ImageFont) -> dict[int, tuple[int, int]]:
    """Return where the name of each class begins: pixels from the left, and the line."""
    placed: dict[int, tuple[int, int]] = {}
    x, line = _MARGIN, 0
    for k, name in names.items():
        needed = round(font.getlength(name)) + _SWATCH + 3 * _MARGIN
        if x > _MARGIN and x + needed > width:
            x, line = _MARGIN, line + 1
        placed[k] = (x, line)
        x += needed
    return placed


def _draw_legend(
    draw: ImageDraw,
    names: dict[int, str],
    placed: dict[int, tuple[int, int]],
    top: int,
    font: FreeTypeFont | ImageFont,
) -> None:
    for k, (x, line) in placed.items():
        y = top + line * _LINE
        draw.rectangle((x, y + 3, x + _SWATCH - 1, y + 2 + _SWATCH), fill=class_colour(k))
        draw.text((x + _SWATCH + 7, y), names[k], fill=_TEXT, font=font)
