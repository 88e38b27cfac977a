"""Small charts as inline SVG: curves, dots of each case, and accuracy against size.

Every chart has a title and a description for those who do not see it, tells its series apart by marks and dashes as
well as by colour, and shows the value of a point when the pointer rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean

from lightning_pocket.errors import PocketError

from . import svg
from .svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale

_ROW = 20  # pixels of one strip of dots
_GROUP = 30  # pixels of the name of a group of strips
_CROWDED = 40  # a strip of more dots has smaller ones, spread over its height
_SPREAD = 12  # pixels of that
_GOLDEN = (5**0.5 - 1) / 2  # neighbours in a sequence of its multiples lie far apart
_MANY = 40  # a curve of more points has no marks: they would hide it
_BESIDE = 4  # pixels between the error bars of two curves at the same x


@dataclass(frozen=True)
class Point:
    """A result to be drawn.

    Args:
        x: For example the number of parameters.
        y: For example the mean Dice.
        label: Name of the point.
        error: Half the length of its error bar.
    """

    x: float
    y: float
    label: str
    error: float = 0.0


def line_chart(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_label: str,
    y_label: str,
    title: str,
    errors: Mapping[str, Mapping[float, float]] | None = None,
    log_x: bool = False,
    order: Sequence[str] = (),
) -> str:
    """Draw curves.

    Args:
        series: Points (x, y) of each curve by its name; those that are not finite are left out.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        title: What the chart shows.
        errors: Half the length of the error bars, by curve and x.
        log_x: Logarithmic horizontal axis; points whose x is not positive are left out.
        order: Names of all series of the page, which have the same marks in each chart.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no point to draw.
    """
    curves = [
        [(x, y) for x, y in points if math.isfinite(x + y) and (x > 0 or not log_x)] for points in series.values()
    ]
    bars = [(errors or {}).get(name, {}) for name in series]
    everything = [point for curve in curves for point in curve]
    _need(everything, title)
    places = svg.indices(list(series), order)
    names, top = svg.legend(list(series), _line_sample, places)
    height = HEIGHT + top
    x_ticks = (svg.log_ticks if log_x else svg.nice_ticks)(*_range(x for x, _ in everything))
    reach = [(y, bar.get(x, 0.0)) for curve, bar in zip(curves, bars, strict=True) for x, y in curve]
    y_ticks = svg.nice_ticks(*_range(end for y, error in reach for end in (y - error, y + error)))
    x_scale = Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log=log_x)
    y_scale = Scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP + top)
    whole = all(x == int(x) for x, _ in everything)  # there is no epoch 1.5
    shown = [tick for tick in x_ticks if not whole or tick == int(tick)]
    drawn = svg.x_axis(x_scale, shown, x_label, height - BOTTOM, TOP + top)
    drawn += svg.y_axis(y_scale, y_ticks, y_label, LEFT, WIDTH - RIGHT)
    for number, (index, name, curve, bar) in enumerate(zip(places, series, curves, bars, strict=True)):
        values = svg.line_values(name, curve) if len(curve) > _MANY else ""
        drawn += svg.line(index, [(x_scale(x), y_scale(y)) for x, y in curve], values=values)
        for x, y in curve:
            if bar.get(x):  # beside each other, since curves often share their x
                at = x_scale(x) + _BESIDE * (number - (len(curves) - 1) / 2)
                drawn += svg.line(index, [(at, y_scale(y - bar[x])), (at, y_scale(y + bar[x]))], solid=True)
        marked = curve if len(curve) <= _MANY else curve[-1:]
        drawn += "".join(
            svg.marker(index, x_scale(x), y_scale(y), f"{name}, {x_label} {x:g}: {y:.4g}", 3.5) for x, y in marked
        )
    ends = "; ".join(f"{name} ends at {curve[-1][1]:.4g}" for name, curve in zip(series, curves, strict=True) if curve)
    plot = svg.plot((LEFT, TOP + top, WIDTH - RIGHT, height - BOTTOM), drawn, x_scale, y_scale, x_label, whole)
    return svg.document(title, f"{y_label} against {x_label}: {ends}.", height, names + plot)


def dot_chart(
    groups: Mapping[str, Mapping[str, Mapping[str, float]]], x_label: str, title: str, order: Sequence[str] = ()
) -> str:
    """Draw the value of every case as a dot, one strip for each run in each group, with the mean as an upright bar.

    The dots of crowded strips are smaller and lie at different heights, which mean nothing.

    Args:
        groups: Group (such as a class) -> run -> case -> value; values that are not finite are left out.
        x_label: Name of the values.
        title: What the chart shows.
        order: Names of all runs of the page, which have the same marks in each chart.

    Returns:
        The ``<svg>`` element, higher the more strips there are.

    Raises:
        PocketError: If there is no value to draw.
    """
    values = [value for runs in groups.values() for cases in runs.values() for value in cases.values()]
    values = [value for value in values if math.isfinite(value)]
    _need(values, title)
    runs = list(dict.fromkeys(run for strips in groups.values() for run in strips))
    places = svg.indices(runs, order)
    names, top = svg.legend(runs, lambda index, x, y: svg.marker(index, x + 14, y, ""), places)
    ticks = svg.nice_ticks(*_range(values))
    scale = Scale(ticks[0], ticks[-1], RIGHT, WIDTH - RIGHT)
    heads, marks, said, y = "", "", [], float(top + TOP)
    for group, strips in groups.items():
        heads += svg.text(2, y + 14, group, "start", css="group")
        y += _GROUP
        for place, run in zip(places, runs, strict=True):
            finite = {case: value for case, value in strips.get(run, {}).items() if math.isfinite(value)}
            marks += _strip(place, f"{group}, {run}", finite, scale, y)
            said += [f"{group}, {run}: mean {fmean(finite.values()):.4g}"] if finite else []
            y += _ROW
    height = y + BOTTOM
    drawn = svg.x_axis(scale, ticks, x_label, y, top + TOP) + marks
    plot = svg.plot((RIGHT, top + TOP, WIDTH - RIGHT, y), drawn, scale)
    return svg.document(title, f"{x_label} of each case. {'; '.join(said)}.", height, names + plot + heads)


def scatter_chart(points: Sequence[Point], x_label: str, y_label: str, title: str, order: Sequence[str] = ()) -> str:
    """Draw results against a size, on a logarithmic horizontal axis, each with its name and its error bar.

    Args:
        points: One per run; x must be positive.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        title: What the chart shows.
        order: Labels of all points of the page, which have the same marks in each chart.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no point to draw.
    """
    points = [point for point in points if point.x > 0 and math.isfinite(point.y)]
    _need(points, title)
    x_ticks = svg.log_ticks(*_range(point.x for point in points))
    y_ticks = svg.nice_ticks(*_range(y for p in points for y in (p.y - p.error, p.y + p.error)))
    places = svg.indices([p.label for p in points], order)
    names, top = svg.legend([p.label for p in points], lambda index, x, y: svg.marker(index, x + 14, y, ""), places)
    height = HEIGHT + top
    x_scale = Scale(x_ticks[0], x_ticks[-1], LEFT, WIDTH - RIGHT, log=True)
    y_scale = Scale(y_ticks[0], y_ticks[-1], height - BOTTOM, TOP + top)
    drawn = svg.x_axis(x_scale, x_ticks, x_label, height - BOTTOM, TOP + top)
    drawn += svg.y_axis(y_scale, y_ticks, y_label, LEFT, WIDTH - RIGHT)
    for index, point in zip(places, points, strict=True):
        x, y = x_scale(point.x), y_scale(point.y)
        if point.error:
            ends = [(x, y_scale(point.y - point.error)), (x, y_scale(point.y + point.error))]
            drawn += svg.line(index, ends, solid=True)
        drawn += svg.marker(index, x, y, f"{point.label}: {point.y:.4g} with {point.x:,.0f}", 6)
    said = "; ".join(f"{p.label}: {p.y:.4g} at {p.x:,.0f}" for p in points)
    plot = svg.plot((LEFT, TOP + top, WIDTH - RIGHT, height - BOTTOM), drawn, x_scale, y_scale)
    return svg.document(title, f"{y_label} against {x_label}. {said}.", height, names + plot)


def _line_sample(index: int, x: float, y: float) -> str:
    return svg.line(index, [(x, y), (x + 28, y)]) + svg.marker(index, x + 14, y, "", 3.5)


def _strip(index: int, name: str, cases: Mapping[str, float], scale: Scale, y: float) -> str:
    if not cases:
        return ""
    crowded = len(cases) > _CROWDED
    heights = [((rank * _GOLDEN) % 1 - 0.5) * _SPREAD if crowded else 0.0 for rank in range(len(cases))]
    ranked = sorted(cases.items(), key=lambda case: case[1]) if crowded else cases.items()
    dots = "".join(
        svg.marker(index, scale(value), y + above, f"{name}, {case}: {value:.4g}", 2.2 if crowded else 4)
        for (case, value), above in zip(ranked, heights, strict=True)
    )
    mean = fmean(cases.values())
    x = scale(mean)
    bar = f'<path d="M{x:.1f} {y - 9:.1f}v18"{svg.at(x, y)}/>'
    return f'<g class="cases">{dots}</g><g class="mean"><title>{escape(name)}: mean {mean:.4g}</title>{bar}</g>'


def _range(values: Iterable[float]) -> tuple[float, float]:
    found = list(values)
    return min(found), max(found)


def _need(points: Sequence[object], title: str) -> None:
    if not points:
        raise PocketError(f"chart {title!r}: there is no finite value to draw.")
