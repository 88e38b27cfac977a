"""ROC curves and confusion matrices as pictures, for loggers that show nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lightning_pocket.reports.overlay import OKABE_ITO

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

_INK, _PAPER, _FAINT = (30, 30, 30), (255, 255, 255), (205, 205, 205)
_DARKEST = np.array((0, 114, 178))
_SIDE = 360
_MARGIN = 64
_LINE = 22
_FONT_SIZE = 15
_LETTERS = 18  # of a class name beside the matrix
#: Dashes of the curves, so that they can be told apart without their colours: pixels drawn, pixels left out.
_DASHES = ((1, 0), (9, 5), (3, 4), (14, 4), (6, 8))

Curve = tuple[np.ndarray, np.ndarray]


def draw_roc(curves: Mapping[str, Curve]) -> np.ndarray:
    """Draw ROC curves with the area under each in the legend.

    Args:
        curves: False and true positive rates by class, both increasing from 0 to 1.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    names = {name: f"{name}: AUC {np.trapezoid(y, x):.3f}" for name, (x, y) in curves.items()}
    width = max(2 * _MARGIN + _SIDE, round(max(map(font.getlength, names.values()), default=0)) + 2 * _MARGIN)
    canvas = Image.new("RGB", (width, 2 * _MARGIN + _SIDE + _LINE * len(names)), _PAPER)
    draw = ImageDraw.Draw(canvas)
    left, top = _MARGIN, _MARGIN // 2
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * _SIDE, top + (1 - tick) * _SIDE
        draw.line([(x, top), (x, top + _SIDE)], fill=_FAINT)
        draw.line([(left, y), (left + _SIDE, y)], fill=_FAINT)
        draw.text((x, top + _SIDE + 6), f"{tick:g}", fill=_INK, font=font, anchor="ma")
        draw.text((left - 8, y), f"{tick:g}", fill=_INK, font=font, anchor="rm")
    draw.line([(left, top + _SIDE), (left + _SIDE, top)], fill=_FAINT)
    draw.text((left + _SIDE / 2, top + _SIDE + 26), "false positive rate", fill=_INK, font=font, anchor="ma")
    draw.text((left, 4), "true positive rate", fill=_INK, font=font)
    for index, (name, (false_rate, true_rate)) in enumerate(curves.items()):
        colour = _dark(index)
        points = np.stack([left + false_rate * _SIDE, top + (1 - true_rate) * _SIDE], 1)
        _dashed(draw, points, colour, _DASHES[index % len(_DASHES)])
        line = top + _SIDE + 54 + index * _LINE
        sample = np.array([(left, line + 9), (left + 34, line + 9)], dtype=float)
        _dashed(draw, sample, colour, _DASHES[index % len(_DASHES)])
        draw.text((left + 44, line), names[name], fill=_INK, font=font)
    return np.array(canvas)


def draw_confusion(counts: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Draw a confusion matrix; the darker a cell, the larger its share of the images of its true class.

    Args:
        counts: ``(K, K)`` images, rows are true classes and columns predicted ones.
        classes: Names of the K classes.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    names = [name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…" for name in classes]
    cell = max(64, _SIDE // len(names), round(max(map(font.getlength, names))) + 8)
    left = round(max(map(font.getlength, names))) + 2 * _LINE
    side = cell * len(names)
    canvas = Image.new("RGB", (left + side + _LINE, side + 4 * _LINE), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((6, 4), "rows: true class, columns: predicted class", fill=_INK, font=font)
    top = 2 * _LINE
    for row, of_class in enumerate(counts.sum(axis=1)):
        draw.text((left - 8, top + cell * (row + 0.5)), names[row], fill=_INK, font=font, anchor="rm")
        draw.text((left + cell * (row + 0.5), top + side + 6), names[row], fill=_INK, font=font, anchor="ma")
        for column, count in enumerate(counts[row]):
            _draw_cell(draw, (left + cell * column, top + cell * row), cell, int(count), int(of_class), font)
    return np.array(canvas)


def _draw_cell(
    draw: ImageDraw, place: tuple[int, int], side: int, count: int, of_class: int, font: FreeTypeFont | ImageFont
) -> None:
    share = count / of_class if of_class else 0.0
    fill = np.round((1 - share) * np.array(_PAPER) + share * _DARKEST).astype(int)
    x, y = place
    draw.rectangle((x, y, x + side - 1, y + side - 1), fill=(fill[0], fill[1], fill[2]), outline=_FAINT)
    ink = _PAPER if share > 0.6 else _INK
    draw.text((x + side / 2, y + side / 2 - 9), f"{count:,}", fill=ink, font=font, anchor="mm")
    draw.text((x + side / 2, y + side / 2 + 10), f"{share:.1%}", fill=ink, font=font, anchor="mm")


def _dashed(draw: ImageDraw, points: np.ndarray, colour: tuple[int, int, int], dash: tuple[int, int]) -> None:
    """Draw a line along points ``(N, 2)`` of which some pixels are left out."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    drawn, left_out = dash
    period = float(drawn + left_out) if left_out else max(along[-1], 1.0)
    for start in np.arange(0.0, along[-1], period):
        end = min(start + (drawn if left_out else period), along[-1])
        inner = along[(along > start) & (along < end)]
        at = np.concatenate([[start], inner, [end]])
        xs, ys = (np.interp(at, along, points[:, axis]) for axis in (0, 1))
        draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=colour, width=3)


def _dark(index: int) -> tuple[int, int, int]:
    """Return a colour of a class that shows on white."""
    red, green, blue = OKABE_ITO[(index + 4) % len(OKABE_ITO)]
    return int(0.85 * red), int(0.85 * green), int(0.85 * blue)
