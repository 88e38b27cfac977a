"""Parallel coordinates: what many results have in common, one line each through an axis for every setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lightning_pocket.errors import PocketError

from . import svg
from .axes import Axis, PlacedAxis, Value
from .emphasis import faint_line, strong_line
from .svg import RIGHT, TOP, WIDTH

_ROW = 82  # pixels from one axis to the next
_NAME = 24  # pixels for the name above the first axis
_FEW, _FAINTEST = 60, 0.1  # more lines than this are fainter, down to an opacity
_LETTER = 7.3  # mean width of a letter of a tick label
# Lines cross the labels, which stay readable on a rim in the colour of the paper.
_RIM = "paint-order:stroke;stroke:var(--paper,#fffdf9);stroke-width:4px;stroke-linejoin:round"


@dataclass(frozen=True)
class Course:
    """A line through all axes.

    Args:
        title: Shown when the pointer rests on it.
        values: Its place on each axis; None where it has none.
        is_good: Whether it stands out.
    """

    title: str
    values: tuple[Value, ...]
    is_good: bool = False


def parallel_chart(axes: Sequence[Axis], courses: Sequence[Course], good: str, title: str) -> str:
    """Draw a line for each result; the axes lie below each other, so that names of any length can be read.

    Args:
        axes: The axes, from top to bottom.
        courses: The lines; those that stand out are thick and have marks, the others are thin and grey.
        good: What the lines that stand out have in common, for the legend.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element, higher the more axes there are.

    Raises:
        PocketError: If there is no line, or one has another number of values than there are axes.
    """
    if not courses or len(axes) < 2:
        raise PocketError(f"chart {title!r}: there is nothing to draw.")
    if any(len(course.values) != len(axes) for course in courses):
        raise PocketError(f"chart {title!r}: expected {len(axes)} values in each line.")
    legend, top = svg.legend([good, "others"], _sample)
    heights = [top + TOP + _NAME + index * _ROW for index in range(len(axes))]
    placed = [
        axis.place([course.values[index] for course in courses], RIGHT + 8, WIDTH - RIGHT - 8)
        for index, axis in enumerate(axes)
    ]
    ordered = sorted(courses, key=lambda course: course.is_good)  # those that stand out lie on top
    lines, opacity = "", max(_FAINTEST, min(0.5, _FEW / 2 / len(courses)))
    for course in ordered:
        points = [(place(value), y) for place, value, y in zip(placed, course.values, heights, strict=True)]
        lines += strong_line(0, points, course.title) if course.is_good else faint_line(points, course.title, opacity)
    body = "".join(_rule(y) for y in heights) + lines
    body += "".join(_labels(place, y) for place, y in zip(placed, heights, strict=True))
    best = "; ".join(course.title for course in courses if course.is_good)
    said = f"{len(courses)} lines through {', '.join(axis.label for axis in axes)}. {good}: {best or 'none'}."
    return svg.document(title, said, heights[-1] + 30, legend + body)


def _labels(placed: PlacedAxis, y: float) -> str:
    """Return the name of an axis above it, and its ticks."""
    room = min((abs(b - a) for (a, _), (b, _) in zip(placed.ticks, placed.ticks[1:], strict=False)), default=WIDTH)
    letters = max(3, int(room / _LETTER) - 1) if placed.axis.levels else 99
    parts = [svg.text(RIGHT, y - 12, placed.axis.label, "start", css="group")]
    for x, name in placed.ticks:
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 5:.1f}" y2="{y + 5:.1f}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{y + 20:.1f}" text-anchor="middle" class="tick">{escape(svg.shorten(name, letters))}'
            f"<title>{escape(name)}</title></text>"
        )
    return f'<g style="{_RIM}">{"".join(parts)}</g>'


def _rule(y: float) -> str:
    return f'<line class="grid" x1="{RIGHT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _sample(index: int, x: float, y: float) -> str:
    ends = [(x, y), (x + 28, y)]
    return strong_line(0, ends, "") if index == 0 else faint_line(ends, "")
