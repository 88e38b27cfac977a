"""Contours of truth and prediction of the same cases, several networks side by side, as in Lighter U-Net, Figure 2."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .overlay import draw_contours, resize
from .page import Page
from .pictures import png_bytes
from .slices import CaseSlices

_BACKGROUND = (17, 17, 17)
_TEXT = (235, 235, 235)
_MARGIN = 10
_LINE = 22
_FONT_SIZE = 15
_MOST_COLUMNS = 4  # more would be too small on a page


@dataclass(frozen=True)
class Contours:
    """What one run made of one case.

    Args:
        shown: The slice that is drawn.
        dice: Mean Dice over the foreground classes of the whole case, on the grid of its own files.
    """

    shown: CaseSlices
    dice: float


def write_overlays(
    path: Path, cases: Mapping[str, Mapping[str, Contours]], num_classes: int, notes: Sequence[str], command: str
) -> None:
    """Write the page.

    Args:
        path: HTML file to write.
        cases: What each run made of each case: case -> name of the run -> contours.
        num_classes: Number of classes, background included; other labels are not drawn.
        notes: What a reader must know.
        command: What made it.
    """
    names = list(next(iter(cases.values())))
    page = Page(f"Contours of {_listed(names)}" if len(names) < 4 else f"Contours of {len(names)} runs")
    page.paragraph("Truth: red and thick. Prediction: green and thin, drawn above it.", "lead")
    for note in notes:
        page.paragraph(note, "note")
    for subject, found in cases.items():
        page.subsection(subject)
        scores = ", ".join(f"{name} {_said(contours, num_classes)}" for name, contours in found.items())
        picture = png_bytes(draw_case(found, num_classes))
        page.pictures([(picture, f"Contours of truth and prediction in {subject}", f"Dice: {scores}.")])
    page.section("How it was made")
    page.code(command)
    page.write(path)


def _said(contours: Contours, num_classes: int) -> str:
    """Return the Dice of a run, and what its contour alone does not tell for sure."""
    shown = contours.shown.slices[0]
    where, whole = ("", "image") if shown.plane == "image" else (" in this slice", "slice")
    foreground = (shown.predicted > 0) & (shown.predicted < num_classes)
    if not foreground.any():
        return f"{contours.dice:.3f} (nothing predicted{where})"
    return f"{contours.dice:.3f} (whole {whole} predicted)" if foreground.all() else f"{contours.dice:.3f}"


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def draw_case(found: Mapping[str, Contours], num_classes: int, panel: int = 320) -> np.ndarray:
    """Draw one panel for each run, up to four in a row, below the name of the run and its Dice.

    Args:
        found: What each run made of the case, by the name of the run.
        num_classes: Number of classes, background included.
        panel: Longest side of a panel in pixels.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_FONT_SIZE)
    panels = [_panel(contours.shown, num_classes, panel) for contours in found.values()]
    rows = math.ceil(len(panels) / _MOST_COLUMNS)
    columns = math.ceil(len(panels) / rows)
    height, width = panels[0].shape[0] + _LINE + _MARGIN, panels[0].shape[1] + _MARGIN
    canvas = Image.new("RGB", (columns * width + _MARGIN, rows * height + _MARGIN), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for index, ((name, contours), pixels) in enumerate(zip(found.items(), panels, strict=True)):
        top, left = (index // columns) * height + _MARGIN, (index % columns) * width + _MARGIN
        score = f"{contours.dice:.3f}"
        room = pixels.shape[1] - font.getlength(score) - _MARGIN
        draw.text((left, top), _shortened(name, room, font.getlength), fill=_TEXT, font=font)
        draw.text((left + pixels.shape[1] - font.getlength(score), top), score, fill=_TEXT, font=font)
        canvas.paste(Image.fromarray(pixels), (left, top + _LINE))
    return np.array(canvas)


def _panel(case: CaseSlices, num_classes: int, longest: int) -> np.ndarray:
    """Return a slice ``(H, W, 3)`` with its contours, at a size at which thin lines are seen, with square pixels."""
    shown = case.slices[0]
    scale = longest / max(shown.size_mm)
    height, width = (max(1, round(side * scale)) for side in shown.size_mm)
    grey = resize(case.grey(0), height, width, smooth=True)
    labels = [np.where(label < num_classes, label, 0).astype(np.uint8) for label in (shown.truth, shown.predicted)]
    truth, predicted = (resize(label, height, width, smooth=False) for label in labels)
    return draw_contours(np.repeat(grey[..., None], 3, axis=2), truth, predicted)


def _shortened(name: str, room: float, length: Callable[[str], float]) -> str:
    """Return as much of a name as there is room for."""
    shown = name
    while length(shown) > room and len(shown) > 2:
        shown = f"{shown[:-2]}…"
    return shown
