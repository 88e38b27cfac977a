"""A score against a cost for networks of several kinds, and their efficient frontier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import svg
from .axes import Axis, PlacedAxis
from .emphasis import Label, labels
from .front_chart import Aim, Pair, front
from .svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

_FRONTIER, _BASE = -1, -2  # in the legend
_THICK = 'stroke="currentColor" stroke-width="3" opacity="0.35"'


@dataclass(frozen=True)
class Networks:
    """Networks of one kind, drawn alike.

    Args:
        pairs: Cost and score of each.
        competes: Whether they may be on the frontier; published numbers of other trainings may not.
        joined: Whether they are joined by a thin line, in the order given.
    """

    pairs: Sequence[Pair]
    competes: bool = True
    joined: bool = False


def efficient(kinds: Mapping[str, Networks], more_y: bool) -> list[Pair]:
    """Return the networks of all kinds that none is better than, from the cheapest on.

    Args:
        kinds: Networks by the name of their kind.
        more_y: Whether more is better of the score; of the cost, less is.
    """
    return front([pair for kind in kinds.values() if kind.competes for pair in kind.pairs], Aim(False, more_y))


def frontier_chart(
    kinds: Mapping[str, Networks],
    x_axis: Axis,
    y_axis: Axis,
    more_y: bool,
    title: str,
    order: Sequence[str] = (),
    bases: Sequence[Pair] = (),
) -> str:
    """Draw networks with the mark of their kind, and the efficient frontier as thick steps.

    The networks of the frontier have their names beside them, and so have those that cannot be on it, and the bases.

    Args:
        kinds: Networks by the name of their kind.
        x_axis: The cost.
        y_axis: The score.
        more_y: Whether more is better of the score.
        title: What the chart shows.
        order: Names of all kinds of the page, which have the same marks in each chart.
        bases: Networks that others were made of, with a ring around their mark.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no network.
    """
    pairs = [pair for kind in kinds.values() for pair in kind.pairs]
    svg.need(pairs, title)
    good = efficient(kinds, more_y)
    places = svg.indices(list(kinds), order)
    others = {"base network": _BASE, "efficient frontier": _FRONTIER} if bases else {"efficient frontier": _FRONTIER}
    legend, top = svg.legend([*kinds, *others], _sample, [*places, *others.values()])
    floor = HEIGHT + top - BOTTOM
    along = x_axis.place([pair.x for pair in pairs], LEFT + 8, WIDTH - RIGHT)
    up = y_axis.place([pair.y for pair in pairs], floor, TOP + top)
    body = along.below(floor, TOP + top) + up.beside(LEFT, WIDTH - RIGHT) + _steps(good, along, up, more_y)
    for index, kind in zip(places, kinds.values(), strict=True):
        if kind.joined:
            path = [(along(pair.x), up(pair.y)) for pair in kind.pairs]
            body += f'<g opacity="0.5">{svg.line(index, path)}</g>'
        body += "".join(svg.marker(index, along(pair.x), up(pair.y), pair.title, 4.5) for pair in kind.pairs)
    body += "".join(_ring(along(pair.x), up(pair.y)) for pair in bases)
    named = [*good, *(pair for kind in kinds.values() if not kind.competes for pair in kind.pairs)]
    named += [pair for pair in bases if pair not in named]
    body += labels(
        [Label(along(pair.x), up(pair.y), pair.name) for pair in named],
        [(along(pair.x), up(pair.y)) for pair in pairs if pair not in named],
        TOP + top,
        floor,
    )
    plot = svg.plot((LEFT, TOP + top, WIDTH - RIGHT, floor), body, along.zoomed, up.zoomed)
    said = "; ".join(pair.title for pair in good)
    description = f"{y_axis.label} against {x_axis.label} of {len(pairs)} networks. The frontier: {said}."
    return svg.document(title, description, HEIGHT + top, legend + plot)


def _steps(good: Sequence[Pair], along: PlacedAxis, up: PlacedAxis, more_y: bool) -> str:
    """Return the frontier: what lies on its worse side is no better than one of its networks in both numbers."""
    if not good:
        return ""
    corners: list[tuple[float, float]] = [(along(good[0].x), up(good[0].y))]
    for before, after in pairwise(good):
        worse = min(before.y, after.y) if more_y else max(before.y, after.y)
        corners += [(along(after.x), up(worse)), (along(after.x), up(after.y))]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polyline class="frontier" fill="none" {_THICK} points="{path}"/>'


def _ring(x: float, y: float) -> str:
    return (
        f'<circle class="base" cx="{x:.1f}" cy="{y:.1f}" r="9" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    )


def _sample(index: int, x: float, y: float) -> str:
    if index == _BASE:
        return _ring(x + 14, y)
    if index == _FRONTIER:
        return f'<line x1="{x}" x2="{x + 28}" y1="{y}" y2="{y}" {_THICK}/>'
    return svg.marker(index, x + 14, y, "", 4.5)
