"""A loss over a plane as inline SVG: cells that are the darker the higher, and contour lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from . import svg

_LEVELS = 8
_SIDE = 320
#: Width and height of the number of a contour, in pixels.
_ROOM = (38, 18)
Point = tuple[float, float]


def surface_chart(losses: Mapping[Point, float], title: str, limits: tuple[float, float] | None = None) -> str:
    """Draw the values of a square grid; the darker a cell, the higher its logarithm; contours say their value.

    Args:
        losses: Value by x and y; those that are not finite are left blank.
        title: What the chart shows.
        limits: Least and largest value that shades and contours are for, so that charts can be compared; by default
            those of ``losses``.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no finite value.
    """
    finite = {point: value for point, value in losses.items() if math.isfinite(value)}
    svg.need(finite, title)
    heights = {point: _height(value) for point, value in finite.items()}
    low, high = map(_height, limits or (min(finite.values()), max(finite.values())))
    along = sorted({x for x, _ in losses})
    left, top, step = float(svg.LEFT), float(svg.TOP), _SIDE / len(along)
    half = (along[1] - along[0]) / 2
    x_scale = svg.Scale(along[0] - half, along[-1] + half, left, left + _SIDE)
    y_scale = svg.Scale(along[0] - half, along[-1] + half, top + _SIDE, top)
    cells = "".join(
        _cell(
            x_scale(x) - step / 2,
            y_scale(y) - step / 2,
            step,
            (heights[x, y] - low) / ((high - low) or 1),
            f"{x:g}, {y:g}: {finite[x, y]:.4g}",
        )
        for x, y in finite
    )
    levels = [low + (high - low) * n / _LEVELS for n in range(1, _LEVELS)]
    contours = {level: _contour(heights, along, level) for level in levels}
    lines = "".join(
        svg.line(1, [(x_scale(x), y_scale(y)) for x, y in segment], solid=True)
        for segments in contours.values()
        for segment in segments
    )
    lines += _numbers(contours, x_scale, y_scale)
    ticks = [tick for tick in svg.nice_ticks(along[0], along[-1], 4) if along[0] <= tick <= along[-1]]
    axes = svg.x_axis(x_scale, ticks, "first direction", top + _SIDE, top)
    axes += svg.y_axis(y_scale, ticks, "second direction", left, left + _SIDE)
    ends, centre = (min(finite.values()), max(finite.values())), finite.get((0.0, 0.0), math.nan)
    said = f"From {ends[0]:.4g} to {ends[1]:.4g}; {centre:.4g} at the centre."
    return svg.document(title, said, top + _SIDE + svg.BOTTOM, axes + cells + lines)


def _cell(x: float, y: float, side: float, share: float, said: str) -> str:
    """Return a square; the share decides how dark it is."""
    return (
        f'<g class="s0"><title>{escape(said)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{side:.2f}" '
        f'height="{side:.2f}" fill-opacity="{0.04 + 0.76 * share:.2f}" stroke="none"/></g>'
    )


def _height(value: float) -> float:
    return math.log(max(value, 1e-12))


def _contour(heights: Mapping[Point, float], along: Sequence[float], level: float) -> list[tuple[Point, Point]]:
    """Return the line of one level: a segment in each square of four points that it crosses (marching squares)."""
    parts = []
    for x0, x1 in pairwise(along):
        for y0, y1 in pairwise(along):
            corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
            if any(corner not in heights for corner in corners):
                continue
            ends = [
                _crossing(one, other, heights, level)
                for one, other in zip(corners, [*corners[1:], corners[0]], strict=True)
                if (heights[one] < level) != (heights[other] < level)
            ]
            parts += list(zip(ends[::2], ends[1::2], strict=True))
    return parts


def _numbers(contours: Mapping[float, Sequence[tuple[Point, Point]]], x: svg.Scale, y: svg.Scale) -> str:
    """Return the value of each contour, beside the diagonal that it crosses, as far as there is room."""
    parts: list[str] = []
    taken: list[Point] = []
    for level, segments in contours.items():
        middles = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in segments]
        if not middles:
            continue
        best = min(middles, key=lambda point: (point[0] + point[1] < 0, abs(point[0] - point[1])))
        place = x(best[0]), y(best[1])
        if any(abs(place[0] - px) < _ROOM[0] and abs(place[1] - py) < _ROOM[1] for px, py in taken):
            continue
        taken.append(place)
        left, top = place[0] - _ROOM[0] / 2, place[1] - _ROOM[1] / 2
        parts.append(
            f'<rect class="paper" x="{left:.1f}" y="{top:.1f}" width="{_ROOM[0]}" height="{_ROOM[1]}" rx="3"/>'
            + svg.text(place[0], place[1] + 5, f"{math.exp(level):.3g}", css="tick")
        )
    return "".join(parts)


def _crossing(one: Point, other: Point, heights: Mapping[Point, float], level: float) -> Point:
    share = (level - heights[one]) / (heights[other] - heights[one])
    return one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])
