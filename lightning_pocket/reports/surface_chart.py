"""A loss over a plane as inline SVG: cells that are the darker the higher, and contour lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise

from . import svg

_LEVELS = 8
_SIDE = 320


def surface_chart(losses: Mapping[tuple[float, float], float], title: str) -> str:
    """Draw the values of a square grid; the darker a cell, the higher its logarithm.

    Args:
        losses: Value by x and y; those that are not finite are left blank.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no finite value.
    """
    finite = {point: value for point, value in losses.items() if math.isfinite(value)}
    svg.need(finite, title)
    heights = {point: math.log(max(value, 1e-12)) for point, value in finite.items()}
    low, high = min(heights.values()), max(heights.values())
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
    lines = "".join(
        _contour(heights, along, x_scale, y_scale, low + (high - low) * n / _LEVELS) for n in range(1, _LEVELS)
    )
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


def _contour(
    heights: Mapping[tuple[float, float], float], along: Sequence[float], x: svg.Scale, y: svg.Scale, level: float
) -> str:
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
            for one, other in zip(ends[::2], ends[1::2], strict=True):
                points = [(x(one[0]), y(one[1])), (x(other[0]), y(other[1]))]
                parts.append(svg.line(1, points, solid=True))
    return "".join(parts)


def _crossing(
    one: tuple[float, float], other: tuple[float, float], heights: Mapping[tuple[float, float], float], level: float
) -> tuple[float, float]:
    share = (level - heights[one]) / (heights[other] - heights[one])
    return one[0] + share * (other[0] - one[0]), one[1] + share * (other[1] - one[1])
