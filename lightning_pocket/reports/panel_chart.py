"""The same rows measured twice, such as by a paper and by oneself: panels below each other, each with its own scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightning_pocket.errors import PocketError

from . import svg
from .axes import Axis, PlacedAxis
from .emphasis import Label, labels
from .svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH

_PANEL = 170  # pixels of a plot
_HEAD = 26  # pixels for the name of a panel
_NUMBERS = 20  # pixels for the numbers above the marks
_LONGEST = 24  # letters of the name of a mark
_LETTER = 7.3  # mean width of a letter of a tick label


@dataclass(frozen=True)
class Spot:
    """What a row came to.

    Args:
        level: Name of the row.
        value: Its result.
        shown: The result as text.
        error: Half the length of its error bar.
        size: Its size, such as the number of parameters; None where it is not known.
        title: Shown when the pointer rests on it.
    """

    level: str
    value: float
    shown: str
    error: float = 0.0
    size: float | None = None
    title: str = ""


Panels = Mapping[str, Sequence[Spot]]


def row_panels(panels: Panels, x_axis: Axis, y_label: str, title: str) -> str:
    """Draw the result of each row with its error bar, one panel for each who measured it.

    Args:
        panels: What the rows came to, by the name of the panel.
        x_axis: The rows in their order, as names; the panels share it.
        y_label: Name of the results.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element. Every panel has a scale of its own.

    Raises:
        PocketError: If there is nothing to draw.
    """
    drawn = _filled(panels, title)
    along = x_axis.place(list(x_axis.levels), LEFT, WIDTH - RIGHT)
    body, y = "", 0.0
    for index, (name, spots) in enumerate(drawn.items()):
        top = y + _HEAD + _NUMBERS
        floor = top + _PANEL
        body += svg.text(LEFT, y + 18, name, "start", css="group")
        named = index == len(drawn) - 1
        axis = along if named else PlacedAxis(Axis(""), along.scale, tuple((x, "") for x, _ in along.ticks), None)
        panel = axis.below(floor, top)
        ends = [end for spot in spots for end in (spot.value - spot.error, spot.value + spot.error)]
        up = Axis(y_label).place(ends, floor, top)
        panel += up.beside(LEFT, WIDTH - RIGHT)
        roomy = (WIDTH - LEFT - RIGHT) / len(x_axis.levels) > max(len(spot.shown) for spot in spots) * _LETTER + 2
        panel += "".join(_spot(index, spot, along(spot.level), up) for spot in spots)
        body += svg.plot((LEFT, top, WIDTH - RIGHT, floor), panel, None, up.zoomed)
        for spot in spots:
            body += svg.text(along(spot.level), top - 5, spot.shown, css="tick") if roomy else ""
        y = floor + TOP
    return svg.document(title, _said(drawn, y_label), y - TOP + along.height, body)


def size_panels(panels: Panels, x_label: str, y_label: str, title: str) -> str:
    """Draw results against the size of what gave them, on logarithmic axes, each with the name of its row.

    There are no error bars: they would hide the names, and how results change with the size.

    Args:
        panels: See :func:`row_panels`; rows without a size are left out.
        x_label: Name of the sizes.
        y_label: Name of the results.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element. The panels share the axis of sizes where the sizes of all overlap.

    Raises:
        PocketError: If there is nothing to draw.
    """
    drawn = _filled({name: [spot for spot in spots if spot.size] for name, spots in panels.items()}, title)
    sizes = {name: [spot.size for spot in spots if spot.size] for name, spots in drawn.items()}
    overlap = max(map(min, sizes.values())) <= min(map(max, sizes.values()))
    everything = [size for found in sizes.values() for size in found]
    body, y = "", 0.0
    for index, (name, spots) in enumerate(drawn.items()):
        top = y + _HEAD
        floor = top + _PANEL
        along = Axis(x_label, log=True).place(everything if overlap else sizes[name], LEFT + 8, WIDTH - RIGHT)
        up = Axis(y_label).place([spot.value for spot in spots], floor, top)
        body += svg.text(LEFT, y + 18, name, "start", css="group")
        panel = along.below(floor, top) + up.beside(LEFT, WIDTH - RIGHT)
        panel += "".join(_mark(index, spot, along(spot.size), up) for spot in spots)
        names = [Label(along(spot.size), up(spot.value), svg.shorten(spot.level, _LONGEST)) for spot in spots]
        panel += labels([*names[:1], *names[:0:-1]], [], top, floor)  # where room is short, the first and the last
        body += svg.plot((LEFT, top, WIDTH - RIGHT, floor), panel, along.zoomed, up.zoomed)
        y = floor + BOTTOM
    return svg.document(title, _said(drawn, y_label), y, body)


def _filled(panels: Panels, title: str) -> dict[str, Sequence[Spot]]:
    """Return the panels that show something."""
    found = {name: spots for name, spots in panels.items() if spots}
    if not found:
        raise PocketError(f"chart {title!r}: there is nothing to draw.")
    return found


def _spot(index: int, spot: Spot, x: float, up: PlacedAxis) -> str:
    """Return a mark with its error bar."""
    ends = [(x, up(spot.value - spot.error)), (x, up(spot.value + spot.error))]
    return (svg.line(index, ends, solid=True) if spot.error else "") + _mark(index, spot, x, up)


def _mark(index: int, spot: Spot, x: float, up: PlacedAxis) -> str:
    return svg.marker(index, x, up(spot.value), spot.title or f"{spot.level}: {spot.shown}", 5)


def _said(panels: Panels, y_label: str) -> str:
    found = [f"{name}: {', '.join(f'{spot.level} {spot.shown}' for spot in spots)}" for name, spots in panels.items()]
    return f"{y_label}. {'; '.join(found)}."
