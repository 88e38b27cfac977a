"""Stacked areas over the moments of something, such as the memory that a training step holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lightning_pocket.errors import PocketError

from . import svg
from .svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale


def area_chart(
    bands: Mapping[str, Sequence[float]], moments: Sequence[str], x_label: str, y_label: str, title: str
) -> str:
    """Draw bands on top of each other, from left to right in the order of the moments.

    Args:
        bands: Height of each band at each moment, by the band's name; the first lies at the bottom.
        moments: Name of each moment, shown when the pointer rests there.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is nothing to draw, or a band has another number of moments.
    """
    if not moments or not bands:
        raise PocketError(f"chart {title!r}: there is nothing to draw.")
    if any(len(heights) != len(moments) for heights in bands.values()):
        raise PocketError(f"chart {title!r}: expected {len(moments)} values in each band.")
    names, top = svg.legend(list(bands), _sample)
    height = HEIGHT + top
    totals = [sum(heights) for heights in zip(*bands.values(), strict=True)]
    ticks = svg.nice_ticks(0.0, max(totals))
    y_scale = Scale(ticks[0], ticks[-1], height - BOTTOM, TOP + top)
    x_scale = Scale(0, len(moments), LEFT, WIDTH - RIGHT)
    body = svg.y_axis(y_scale, ticks, y_label, LEFT, WIDTH - RIGHT)
    below = [0.0] * len(moments)
    for index, heights in enumerate(bands.values()):
        above = [low + high for low, high in zip(below, heights, strict=True)]
        body += _band(index, x_scale, [y_scale(value) for value in below], [y_scale(value) for value in above])
        below = above
    tops = [svg.at(x_scale(i + 0.5), y_scale(total)) for i, total in enumerate(totals)]
    body += "".join(
        f'<rect x="{x_scale(i):.1f}" y="{TOP + top}" width="{x_scale(1) - x_scale(0):.1f}" '
        f'height="{height - BOTTOM - TOP - top}" fill="transparent"{tops[i]}>'
        f"<title>{escape(moment)}: {totals[i]:,.0f}</title>"
        "</rect>"
        for i, moment in enumerate(moments)
    )
    most = max(range(len(moments)), key=totals.__getitem__)
    x, y = x_scale(most + 0.5), y_scale(totals[most])
    body += svg.marker(len(bands), x, y, f"most, {totals[most]:,.0f}: {moments[most]}", 5)
    plot = svg.plot((LEFT, TOP + top, WIDTH - RIGHT, height - BOTTOM), body, x_scale, y_scale)
    label = svg.text((LEFT + WIDTH - RIGHT) / 2, height - BOTTOM + 40, x_label)
    said = f"{y_label} over {len(moments)} moments; most is {totals[most]:,.0f}, at {moments[most]}."
    return svg.document(title, said, height, names + plot + label)


def _band(index: int, x_scale: Scale, below: Sequence[float], above: Sequence[float]) -> str:
    """Return steps: a moment is as wide as the others, and level."""
    edges = [(x_scale(i), x_scale(i + 1)) for i in range(len(above))]
    along = [(x, y) for (left, right), y in zip(edges, above, strict=True) for x in (left, right)]
    back = [(x, y) for (left, right), y in zip(edges, below, strict=True) for x in (left, right)][::-1]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (*along, *back))
    return f'<polygon class="s{index}" fill="currentColor" fill-opacity="0.55" points="{points}"/>'


def _sample(index: int, x: float, y: float) -> str:
    return (
        f'<rect class="s{index}" x="{x}" y="{y - 6}" width="28" height="12" fill="currentColor" fill-opacity="0.55"/>'
    )
