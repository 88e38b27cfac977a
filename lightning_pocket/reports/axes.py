"""Axes of charts: of numbers, of their logarithms, or of names in an order of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from . import svg
from .svg import BOTTOM, Scale, shorten

#: A place on an axis: a number, one of its names, or None for what has no value there.
Value = float | str | None

_LETTER = 7.3  # mean width of a letter of a tick label
_BETWEEN = 8  # least pixels between two labels
_ABSENT_WIDTH = 90  # pixels at the end of an axis for what has no value
_TURN = math.radians(40)  # by how much names are turned that do not fit beside each other
_FEWEST, _MOST = 3, 24  # letters of a turned name


def show_number(value: float) -> str:
    """Return a number for people: four digits, or all of a large one."""
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Args:
        label: Its name.
        levels: Names in their order, where it shows names; numbers without any.
        log: Logarithmic; all values must be positive.
        whole: It shows whole numbers, and ends at the first and the last.
        reach: Numbers that it covers besides those that are drawn.
        absent: What stands at the end of the axis for values that are None.
    """

    label: str
    levels: tuple[str, ...] = ()
    log: bool = False
    whole: bool = False
    reach: tuple[float, ...] = ()
    absent: str = "not used"

    def place(self, values: Sequence[Value], start: float, end: float) -> PlacedAxis:
        """Return the axis in a chart, horizontal where ``end`` is larger than ``start``, and vertical otherwise.

        Args:
            values: All values that are drawn.
            start: Pixel of the low end, or of the first name.
            end: Pixel of the high end.
        """
        absent = None in values
        numbers = [value for value in (*values, *self.reach) if isinstance(value, int | float)]
        if self.levels or not numbers:
            names = (*self.levels, *([self.absent] if absent else []))
            scale = Scale(-0.5, max(len(names), 1) - 0.5, start, end)
            ticks = [(scale(index), name) for index, name in enumerate(names)]
            return PlacedAxis(self, scale, tuple(ticks), ticks[-1][0] if absent else None)
        low, high = min(numbers), max(numbers)
        found = (svg.log_ticks if self.log else svg.nice_ticks)(low, high)
        ends = (low, high) if self.whole and low < high else (found[0], found[-1])
        scale = Scale(*ends, start, end - (_ABSENT_WIDTH if absent else 0), log=self.log)
        ticks = self._ticks(found, scale)
        if not absent:
            return PlacedAxis(self, scale, tuple(ticks), None)
        at = end - len(self.absent) * _LETTER / 2
        kept = [tick for tick in ticks if _fit([tick, (at, self.absent)])]
        return PlacedAxis(self, scale, (*kept, (at, self.absent)), at)

    def _ticks(self, values: Sequence[float], scale: Scale) -> list[tuple[float, str]]:
        """Return pixel and label of ticks, so few that the labels of a horizontal axis have room."""
        if self.whole:
            values = [value for value in values if value == int(value) and scale.low <= value <= scale.high]
        powers = [value for value in values if self.log and math.isclose(math.log10(value) % 1, 0, abs_tol=1e-9)]
        choices = [values, *([powers] if len(powers) > 1 else []), *(values[::step] for step in range(2, len(values)))]
        labelled = [[(scale(value), svg.number(value)) for value in choice] for choice in choices]
        return next((ticks for ticks in labelled if scale.end < scale.start or _fit(ticks)), labelled[-1])


@dataclass(frozen=True)
class PlacedAxis:
    """An axis in a chart: it maps values to pixels, and draws itself.

    Args:
        axis: What it shows.
        scale: Maps numbers, and the indices of names.
        ticks: Pixel and label of each tick.
        absent_at: Pixel of values that are None.
    """

    axis: Axis
    scale: Scale
    ticks: tuple[tuple[float, str], ...]
    absent_at: float | None

    def __call__(self, value: Value) -> float:
        """Return the pixel of a value."""
        if value is None:
            return self.scale.end if self.absent_at is None else self.absent_at
        return self.scale(self.axis.levels.index(value) if isinstance(value, str) else value)

    @property
    def zoomed(self) -> Scale | None:
        """The scale, where the axis shows numbers alone."""
        return None if self.axis.levels or self.absent_at is not None else self.scale

    @property
    def height(self) -> float:
        """Pixels that ticks and name take below a horizontal axis."""
        longest = max(map(len, self._turned()), default=0) * _LETTER
        return BOTTOM + (max(0.0, longest * math.sin(_TURN) - 8) if self._is_turned else 0)

    def below(self, y: float, top: float) -> str:
        """Return a horizontal axis: ticks with grid lines from ``y`` up to ``top``, and its name below."""
        parts = [_grid(x, x, top, y) for x, _ in self.ticks]
        if self._is_turned:
            labels = zip(self.ticks, self._turned(), strict=True)
            parts += [_turned_label(x + 4, y + 14, shown, name) for (x, name), shown in labels]
        else:
            parts += [svg.text(x, y + 18, name, css="tick") for x, name in self.ticks]
        ticks = svg.tick_group("x", parts)
        return ticks + svg.text((self.scale.start + self.scale.end) / 2, y + self.height - 10, self.axis.label)

    def beside(self, left: float, right: float) -> str:
        """Return a vertical axis: ticks with grid lines from ``left`` to ``right``, and its name at the left."""
        parts = [
            _grid(left, right, y, y) + svg.text(left - 8, y + 5, name, "end", css="tick") for y, name in self.ticks
        ]
        ticks = svg.tick_group("y", parts)
        return ticks + svg.text(14, (self.scale.start + self.scale.end) / 2, self.axis.label, rotate=True)

    @property
    def _is_turned(self) -> bool:
        return bool(self.axis.levels) and not _fit(self.ticks)

    def _turned(self) -> list[str]:
        """Return names that are turned, as short as the left edge of the picture asks for."""
        found = []
        for x, name in self.ticks:
            room = int((x - 10) / _LETTER / math.cos(_TURN))
            found.append(shorten(name, min(_MOST, max(_FEWEST, room))))
        return found


def _fit(ticks: Sequence[tuple[float, str]]) -> bool:
    """Whether labels lie beside each other without touching."""
    return all(abs(b - a) >= (len(p) + len(q)) * _LETTER / 2 + _BETWEEN for (a, p), (b, q) in pairwise(ticks))


def _grid(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line class="grid" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def _turned_label(x: float, y: float, shown: str, name: str) -> str:
    angle = -math.degrees(_TURN)
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="end" transform="rotate({angle:.0f} {x:.1f} {y:.1f})" class="tick">'
        f"{escape(shown)}<title>{escape(name)}</title></text>"
    )
