"""Two numbers of many results against each other, and their front: no other is as good in both and better in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import svg
from .axes import Axis
from .emphasis import Label, faint_ring, labels
from .fronts import undominated
from .svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH


@dataclass(frozen=True)
class Pair:
    """A result with two numbers.

    Args:
        x: On the horizontal axis.
        y: On the vertical axis.
        name: Written beside it where it is on the front.
        title: Shown when the pointer rests on it.
    """

    x: float
    y: float
    name: str
    title: str


@dataclass(frozen=True)
class Aim:
    """Which way is better.

    Args:
        more_x: Whether more is better on the horizontal axis.
        more_y: Whether more is better on the vertical axis.
    """

    more_x: bool
    more_y: bool

    def scores(self, pair: Pair) -> tuple[float, float]:
        """Return both numbers of a result so that more is better."""
        return (pair.x if self.more_x else -pair.x, pair.y if self.more_y else -pair.y)


def front(pairs: Sequence[Pair], aim: Aim) -> list[Pair]:
    """Return the results that none is better than in one number and at least as good in the other, from left to right.

    Args:
        pairs: Results.
        aim: Which way is better.
    """
    found = [pairs[index] for index in undominated([aim.scores(pair) for pair in pairs])]
    return sorted(found, key=lambda pair: pair.x)


def front_chart(pairs: Sequence[Pair], x_axis: Axis, y_axis: Axis, aim: Aim, title: str) -> str:
    """Draw results, hollow and grey where another one is better, the others joined by steps and with their names.

    What lies on the worse side of the steps is no better than a result of the front in both numbers.

    Args:
        pairs: The results.
        x_axis: The horizontal axis.
        y_axis: The vertical axis.
        aim: Which way is better.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no result.
    """
    svg.need(pairs, title)
    legend, top = svg.legend(["front", "others"], _sample)
    floor = HEIGHT + top - BOTTOM
    along = x_axis.place([pair.x for pair in pairs], LEFT + 8, WIDTH - RIGHT)
    up = y_axis.place([pair.y for pair in pairs], floor, TOP + top)
    good = front(pairs, aim)
    corners: list[tuple[float, float]] = []
    for before, after in pairwise(good):
        worse_x = min(before.x, after.x) if aim.more_x else max(before.x, after.x)
        worse_y = min(before.y, after.y) if aim.more_y else max(before.y, after.y)
        corners += [(along(before.x), up(before.y)), (along(worse_x), up(worse_y))]
    corners.append((along(good[-1].x), up(good[-1].y)))
    rest = [pair for pair in pairs if pair not in good]
    body = along.below(floor, TOP + top) + up.beside(LEFT, WIDTH - RIGHT) + svg.line(0, corners, solid=True)
    body += "".join(faint_ring(along(pair.x), up(pair.y), pair.title) for pair in rest)
    body += "".join(svg.marker(0, along(pair.x), up(pair.y), pair.title, 4.5) for pair in good)
    body += labels(
        [Label(along(pair.x), up(pair.y), pair.name) for pair in good],
        [(along(pair.x), up(pair.y)) for pair in rest],
        TOP + top,
        floor,
    )
    plot = svg.plot((LEFT, TOP + top, WIDTH - RIGHT, floor), body, along.zoomed, up.zoomed)
    said = "; ".join(pair.title for pair in good)
    return svg.document(
        title,
        f"{y_axis.label} against {x_axis.label} of {len(pairs)} trials. The front: {said}.",
        HEIGHT + top,
        legend + plot,
    )


def _sample(index: int, x: float, y: float) -> str:
    if index:
        return faint_ring(x + 14, y, "")
    return svg.line(0, [(x, y), (x + 28, y)], solid=True) + svg.marker(0, x + 14, y, "")
