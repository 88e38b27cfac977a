"""Charts of a search: how it went on, which settings matter, and results against one setting at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from lightning_pocket.errors import PocketError

from . import svg
from .axes import Axis, Value, show_number
from .emphasis import faint_ring
from .svg import HEIGHT, LEFT, RIGHT, TOP, WIDTH

_MANY = 60  # more marks than this are drawn smaller
_BAR, _BAR_NAME, _BAR_GAP = 16, 20, 12  # pixels of a bar, of the name above it, and below it
_BAR_VALUE = 60  # pixels of the number behind a bar
#: Index of the mark of each state without a result: a cross, a triangle, a diamond.
_STATES = {"failed": 4, "pruned": 2, "infeasible": 3}


@dataclass(frozen=True)
class Try:
    """A result at a setting.

    Args:
        place: The setting, on the horizontal axis.
        value: The result.
        title: Shown when the pointer rests on it.
        is_good: Whether it stands out.
    """

    place: Value
    value: float
    title: str
    is_good: bool = False


def history_chart(
    values: Mapping[int, float], others: Mapping[int, str], y_axis: Axis, maximize: bool, title: str
) -> str:
    """Draw the result of each trial by its number, and the best one so far as a line of steps.

    Args:
        values: Result by number.
        others: ``failed``, ``pruned`` or ``infeasible`` by number, for those without a result; marked on the axis.
        y_axis: The axis of the results.
        maximize: Whether more is better.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no result.
    """
    svg.need(values, title)
    states = [state for state in _STATES if state in others.values()]
    marks = [0, -1, *(_STATES[state] for state in states)]
    legend, top = svg.legend(["trial", "best so far", *states], lambda index, x, y: _sample(marks[index], x, y))
    x_axis = Axis("number of the trial", whole=True).place([*values, *others], LEFT + 4, WIDTH - RIGHT)
    floor = HEIGHT + top - x_axis.height
    y_place = y_axis.place(list(values.values()), floor, TOP + top)
    best = best_so_far(values, maximize)
    steps: list[tuple[float, float]] = []
    for number, value in best.items():
        steps += [(x_axis(number), steps[-1][1])] if steps else []
        steps.append((x_axis(number), y_place(value)))
    last = max([*values, *others])
    steps.append((x_axis(last), steps[-1][1]))
    size = 4.0 if len(values) + len(others) <= _MANY else 2.5
    body = x_axis.below(floor, TOP + top) + y_place.beside(LEFT, WIDTH - RIGHT)
    body += svg.line(1, steps, solid=True)
    for number, value in values.items():
        said = f"trial {number}: {y_axis.label} {show_number(value)}"
        body += svg.marker(0, x_axis(number), y_place(value), said, size)
    for number, state in others.items():
        body += svg.marker(_STATES[state], x_axis(number), floor, f"trial {number}: {state}", size)
    winner = next(reversed(best))
    said = f"{y_axis.label} of {len(values)} trials; the best is {show_number(best[winner])}, of trial {winner}."
    for state in states:
        said += f" Trials that are {state}: {', '.join(str(n) for n, s in others.items() if s == state)}."
    plot = svg.plot((LEFT, TOP + top, WIDTH - RIGHT, floor), body, x_axis.zoomed, y_place.zoomed, whole=True)
    return svg.document(title, said, HEIGHT + top, legend + plot)


def best_so_far(values: Mapping[int, float], maximize: bool) -> dict[int, float]:
    """Return each result that was better than all of smaller numbers, by its number.

    Args:
        values: Result by number.
        maximize: Whether more is better.
    """
    found: dict[int, float] = {}
    for number in sorted(values):
        value = values[number]
        best = next(reversed(found.values()), None)
        if best is None or (value > best if maximize else value < best):
            found[number] = value
    return found


def share_chart(shares: Mapping[str, float], title: str) -> str:
    """Draw shares of a whole as bars with their names above.

    Args:
        shares: Share from 0 to 1 by name, in the order of the bars.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element, higher the more bars there are.

    Raises:
        PocketError: If there is no bar.
    """
    if not shares:
        raise PocketError(f"chart {title!r}: there is nothing to draw.")
    longest = max(*shares.values(), 1e-9)
    body, y = "", float(TOP)
    for name, share in shares.items():
        width = (WIDTH - RIGHT - _BAR_VALUE) * share / longest
        body += svg.text(0, y + 12, name, "start")
        body += (
            f'<g class="s0"><title>{escape(name)}: {share:.1%}</title><rect x="0" y="{y + _BAR_NAME:.1f}" '
            f'width="{width:.1f}" height="{_BAR}" fill="currentColor"/></g>'
        )
        body += svg.text(width + 8, y + _BAR_NAME + _BAR - 3, f"{share:.1%}", "start", css="tick")
        y += _BAR_NAME + _BAR + _BAR_GAP
    said = "; ".join(f"{name} {share:.1%}" for name, share in shares.items())
    return svg.document(title, f"{said}.", y, body)


def slice_chart(tries: Sequence[Try], x_axis: Axis, y_axis: Axis, good: str, title: str) -> str:
    """Draw results against one setting.

    Args:
        tries: The results.
        x_axis: The axis of the setting.
        y_axis: The axis of the results.
        good: What those have in common that stand out, for the legend.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no result.
    """
    svg.need(tries, title)
    legend, top = svg.legend([good, "others"], lambda index, x, y: _sample(0 if index == 0 else -2, x, y))
    along = x_axis.place([entry.place for entry in tries], LEFT + 8, WIDTH - RIGHT)
    floor = HEIGHT + top - 50
    up = y_axis.place([entry.value for entry in tries], floor, TOP + top)
    body = along.below(floor, TOP + top) + up.beside(LEFT, WIDTH - RIGHT)
    for entry in sorted(tries, key=lambda entry: entry.is_good):
        x, y = along(entry.place), up(entry.value)
        body += svg.marker(0, x, y, entry.title, 4.5) if entry.is_good else faint_ring(x, y, entry.title)
    edges = LEFT, TOP + top, WIDTH - RIGHT, floor
    plot = svg.plot(edges, body, along.zoomed, up.zoomed, whole=x_axis.whole)
    said = "; ".join(entry.title for entry in tries if entry.is_good)
    return svg.document(
        title,
        f"{y_axis.label} of {len(tries)} trials against {x_axis.label}. {good}: {said or 'none'}.",
        floor + along.height,
        legend + plot,
    )


def _sample(mark: int, x: float, y: float) -> str:
    """Return a mark for the legend; -1 is the line of steps, -2 a mark in the background."""
    if mark == -1:
        return svg.line(1, [(x, y + 4), (x + 12, y + 4), (x + 12, y - 4), (x + 28, y - 4)], solid=True)
    return faint_ring(x + 14, y, "") if mark == -2 else svg.marker(mark, x + 14, y, "")
