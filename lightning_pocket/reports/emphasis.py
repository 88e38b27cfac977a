"""What stands out in a chart and what stays in the background, told by shape and width as well as by colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from . import svg

_FAINT = 'class="faint" fill="none" stroke="currentColor"'
_RING = 'stroke-opacity="0.5" stroke-width="1.5" pointer-events="all"'
_LETTER, _LINE = 8, 14  # width and height of a letter, in pixels
_MARK = 6  # pixels around the middle of a mark that labels keep free


@dataclass(frozen=True)
class Label:
    """The name of a mark.

    Args:
        x: Pixels of the mark from the left.
        y: Pixels of the mark from the top.
        text: Its name.
    """

    x: float
    y: float
    text: str


def faint_ring(x: float, y: float, title: str, size: float = 3.5) -> str:
    """Return a hollow grey mark.

    Args:
        x: Pixels from the left.
        y: Pixels from the top.
        title: Shown when the pointer rests on it.
        size: Radius in pixels.
    """
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>'
    return f"<g {_FAINT} {_RING}{svg.at(x, y)}><title>{escape(title)}</title>{ring}</g>"


def faint_line(points: Iterable[tuple[float, float]], title: str, opacity: float = 0.5) -> str:
    """Return a thin grey line through points in pixels.

    Args:
        points: Pixels from the left and from the top.
        title: Shown when the pointer rests on it.
        opacity: Less where many lines cross.
    """
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = f'<polyline points="{path}"/>'
    return f'<g {_FAINT} stroke-opacity="{opacity:.2g}" stroke-width="1"><title>{escape(title)}</title>{line}</g>'


def strong_line(index: int, points: Sequence[tuple[float, float]], title: str) -> str:
    """Return a thick line with a mark at each of its points, in the colour and the mark of a series."""
    marks = "".join(svg.marker(index, x, y, title, 4) for x, y in points)
    return f'<g class="strong"><title>{escape(title)}</title>{svg.line(index, points, solid=True)}{marks}</g>'


def labels(names: Sequence[Label], others: Sequence[tuple[float, float]], top: float, floor: float) -> str:
    """Return the names of marks where they hide no mark and no other name; one that has no such place is left out.

    Args:
        names: The names.
        others: Pixels of marks without a name.
        top: Upper edge of the plot in pixels.
        floor: Its lower edge.
    """
    marks = [*others, *((label.x, label.y) for label in names)]
    taken = [(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in marks]
    parts = []
    for label in names:
        width = max(len(label.text) * _LETTER, 8)
        for dx, dy in _places(width):
            x, y = label.x + dx, label.y + dy
            box = (x - width / 2, y - _LINE / 2, x + width / 2, y + _LINE / 2)
            inside = box[0] > svg.LEFT - 4 and box[2] < svg.WIDTH and box[1] > top - _LINE and box[3] < floor
            if inside and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                parts.append(f"<g{svg.at(label.x, label.y)}>{svg.text(x, y + 5, label.text, css='tick name')}</g>")
                break
    return "".join(parts)


def _places(width: float) -> list[tuple[float, float]]:
    """Return where the middle of a name of some width may lie from its mark, the best place first."""
    beside, above, corner = _MARK + 2 + width / 2, _MARK + 1 + _LINE / 2, max(width / 2 - _MARK, 0)
    near = [(0.0, -above), (0.0, above), (beside, 0.0), (-beside, 0.0), (beside, -above), (-beside, -above)]
    near += [(beside, above), (-beside, above)]
    rows = (-above, above, -above - _LINE, above + _LINE)
    return near + [(side * corner, row) for row in rows for side in (-1, 1)]


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
