"""What became of each layer of a network at several strengths of a penalty: widths, and sizes of kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from . import svg
from .svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Scale

_ROW = 22  # pixels of a layer in the grid
_NAME = 184  # pixels of the names of layers
_LETTER = 7.3
_HEAD = 44  # pixels above the grid: name of the columns and their heads
_PANEL = 96  # pixels of a plot of bars
_TITLE = 26  # pixels of the name of a panel
_STRONGEST, _WEAKEST = 0.85, 0.15  # opacity of the largest and the smallest kernels


@dataclass(frozen=True)
class Cell:
    """A layer at a strength.

    Args:
        count: Kernels that are left.
        of: How many there were.
    """

    count: int
    of: int


def width_chart(layers: Sequence[str], columns: Mapping[str, Sequence[Cell]], x_label: str, title: str) -> str:
    """Draw the kernels that are left of each layer as a grid: the number, on a bar as long as their share.

    Args:
        layers: Names of the layers, from the image on.
        columns: Cells of each column, as many as there are layers, by the head of the column.
        x_label: What the heads are.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element, higher the more layers there are.

    Raises:
        PocketError: If there is nothing to draw.
    """
    svg.need(layers, title)
    svg.need(columns, title)
    wide = (WIDTH - _NAME - 4) / len(columns)
    longest = max(map(len, columns)) * _LETTER
    upright = longest > wide - 2  # heads that are wider than their columns are turned
    top = _HEAD + (longest - _LETTER if upright else 0)
    body = svg.text((_NAME + WIDTH) / 2, 16, x_label)
    for place, head in enumerate(columns):
        middle = _NAME + (place + 0.5) * wide
        at = (middle + 4, top - 6, head, "start") if upright else (middle, top - 8, head, "middle")
        body += svg.text(*at, rotate=upright, css="tick")
    for row, layer in enumerate(layers):
        y = top + row * _ROW
        body += svg.text(_NAME - 8, y + 15, svg.shorten(layer, int((_NAME - 12) / _LETTER)), "end", css="tick")
        for place, (head, cells) in enumerate(columns.items()):
            body += _cell(cells[row], _NAME + place * wide, y, wide, f"{layer}, {head}")
    said = "; ".join(f"{head}: {sum(c.count for c in cells)} kernels" for head, cells in columns.items())
    return svg.document(title, f"Kernels left of {len(layers)} layers. {said}.", top + len(layers) * _ROW + TOP, body)


def _cell(cell: Cell, x: float, y: float, wide: float, name: str) -> str:
    long = (wide - 4) * (cell.count / cell.of if cell.of else 0)
    bar = f'<rect x="{x + 2:.1f}" y="{y + 2:.1f}" width="{long:.1f}" height="{_ROW - 4}" fill-opacity="0.3"/>'
    frame = (
        f'<rect x="{x + 2:.1f}" y="{y + 2:.1f}" width="{wide - 4:.1f}" height="{_ROW - 4}" fill="none" '
        'stroke="currentColor" stroke-opacity="0.35"/>'
    )
    said = f"<title>{escape(name)}: {cell.count} of {cell.of} kernels</title>"
    number = svg.text(x + wide / 2, y + 15, str(cell.count), css="count")
    return f'<g fill="currentColor"{svg.at(x + wide / 2, y + _ROW / 2)}>{said}{bar}{frame}{number}</g>'


def size_chart(panels: Mapping[str, Sequence[Mapping[int, int]]], layers: Sequence[str], title: str) -> str:
    """Draw how many kernels of each size a layer has, as stacked bars: a panel for each strength, a bar for each layer.

    Large kernels are dark and lie at the bottom; kernels that are gone are an empty frame at the top.

    Args:
        panels: Number of kernels by size, 0 for those that are gone, of each layer, by the name of the panel.
        layers: Names of the layers, from the image on.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element, higher the more panels there are.

    Raises:
        PocketError: If there is nothing to draw.
    """
    svg.need(layers, title)
    svg.need(panels, title)
    sizes = sorted({size for counts in panels.values() for layer in counts for size in layer}, reverse=True)
    legend, y = svg.legend(
        ["gone" if size == 0 else str(size) for size in sizes], lambda i, x, at: _sample(sizes, i, x, at)
    )
    most = max((sum(layer.values()) for counts in panels.values() for layer in counts), default=0)
    along = Scale(0, len(layers), LEFT, WIDTH - RIGHT)
    body, floor = "", float(y)
    for name, counts in panels.items():
        top = floor + _TITLE + TOP
        floor = top + _PANEL
        up = Scale(0, max(most, 1), floor, top)
        body += svg.text(LEFT, top - TOP, name, "start", css="group")
        ticks = [tick for tick in svg.nice_ticks(0, max(most, 1), 3) if tick <= most]
        panel = svg.y_axis(up, ticks, "kernels", LEFT, WIDTH - RIGHT)
        for place, (layer, found) in enumerate(zip(layers, counts, strict=True)):
            panel += _bar(found, sizes, (along(place + 0.15), along(place + 0.85)), up, f"{name}, {layer}")
        body += svg.plot((LEFT, top, WIDTH - RIGHT, floor), panel)
    step = 1 + len(layers) // 20
    for place in range(0, len(layers), step):
        body += svg.text(along(place + 0.5), floor + 18, str(place + 1), css="tick")
    body += svg.text((LEFT + WIDTH - RIGHT) / 2, floor + 40, "layer, from the image on")
    said = "; ".join(f"{name}: {_totals(counts, sizes)}" for name, counts in panels.items())
    return svg.document(title, f"Kernels of each size in {len(layers)} layers. {said}.", floor + BOTTOM, legend + body)


def _bar(found: Mapping[int, int], sizes: Sequence[int], edges: tuple[float, float], up: Scale, name: str) -> str:
    parts, below = "", 0
    for size in sizes:
        count = found.get(size, 0)
        if count:
            box = f'x="{edges[0]:.1f}" y="{up(below + count):.1f}" width="{edges[1] - edges[0]:.1f}" '
            box += f'height="{up(below) - up(below + count):.1f}"'
            parts += f"<rect {box} {_shade(sizes, size)}/>"
        below += count
    shown = ", ".join(f"{found[size]} {'gone' if size == 0 else f'of {size}'}" for size in sizes if found.get(size))
    middle = svg.at((edges[0] + edges[1]) / 2, up(below))
    return f'<g fill="currentColor"{middle}><title>{escape(name)}: {shown}</title>{parts}</g>'


def _shade(sizes: Sequence[int], size: int) -> str:
    frame = 'stroke="currentColor" stroke-width="0.75"'
    if size == 0:
        return f'fill-opacity="0" {frame} stroke-opacity="0.5"'
    alive = [value for value in sizes if value]
    steps = max(len(alive) - 1, 1)
    opacity = _STRONGEST - (_STRONGEST - _WEAKEST) * alive.index(size) / steps
    return f'fill-opacity="{opacity:.2f}" {frame}'


def _sample(sizes: Sequence[int], index: int, x: float, y: float) -> str:
    return f'<rect x="{x}" y="{y - 6}" width="28" height="12" fill="currentColor" {_shade(sizes, sizes[index])}/>'


def _totals(counts: Sequence[Mapping[int, int]], sizes: Sequence[int]) -> str:
    found = {size: sum(layer.get(size, 0) for layer in counts) for size in sizes}
    return ", ".join(f"{count} {'gone' if size == 0 else f'of {size}'}" for size, count in found.items())
