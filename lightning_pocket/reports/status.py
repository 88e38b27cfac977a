"""How far a training or a test is: the figures, and how they look in a terminal of any width and in a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.text import Text

from .durations import show_duration

_GAP = "  "
_LEAST_BAR = 8  # columns; a shorter one tells less than the numbers beside it


@dataclass(frozen=True)
class Status:
    """How far some work is.

    Args:
        stage: What is done, such as ``epoch 3/125``.
        done: Batches that are done.
        total: Batches of the stage; None where nobody knows.
        figures: Further figures in words, the most important first.
        left_s: Seconds that all of the work is going to take from ``at_s`` on; None where they cannot be told yet.
        bound: What is known of ``left_s``: ``over``, ``up to``, ``about``, or nothing where it is an estimate.
        at_s: When that was so, on the clock of ``time.monotonic``; None for a moment that stands still.
    """

    stage: str
    done: int
    total: int | None
    figures: tuple[str, ...] = ()
    left_s: float | None = None
    bound: str = ""
    at_s: float | None = None

    @property
    def count(self) -> str:
        """Batches that are done, of how many."""
        return f"{self.done}" if self.total is None else f"{self.done}/{self.total}"

    @property
    def left(self) -> str:
        """The time that is left in words, empty where it cannot be told."""
        if self.left_s is None:
            return ""
        passed = 0.0 if self.at_s is None else time.monotonic() - self.at_s
        return f"{self.bound} {show_duration(max(self.left_s - passed, 0.0))} left".lstrip()

    def line(self) -> str:
        """Return all of it as one line for a log."""
        return f"{self.stage}: " + ", ".join(
            part for part in (f"{self.count} batches", *self.figures, self.left) if part
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw a bar where there is room for one, and the figures below, on as many lines as they need."""
        width = options.max_width
        ends = [part for part in (self.count, self.left) if part]
        room = width - len(_GAP.join([self.stage, *ends])) - len(_GAP)
        if self.total and room >= _LEAST_BAR:
            yield Segment(f"{self.stage}{_GAP}")
            yield from console.render(ProgressBar(self.total, self.done, width=room), options)
            yield Segment(" " * (room - _drawn(console, self.done, self.total, room)))
            yield Segment(f"{_GAP}{_GAP.join(ends)}\n")
            lines = flow(self.figures, width)
        else:
            lines = flow([self.stage, *ends, *self.figures], width)
        for line in lines:
            yield Text(line, no_wrap=True, overflow="ellipsis")


def _drawn(console: Console, done: int, total: int, width: int) -> int:
    """Return how many columns rich's bar takes: without colours it leaves out what is not done yet."""
    if not console.no_color and console.color_system is not None:
        return width
    return (int(width * 2 * min(done, total) / total) + 1) // 2


def flow(parts: Sequence[str], width: int) -> list[str]:
    """Return the parts in their order on as few lines as there is room for; a part is never broken.

    Args:
        parts: Words that belong together.
        width: Columns of a line.
    """
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(_GAP) + len(part) <= width:
            lines[-1] += _GAP + part
        else:
            lines.append(part)
    return lines
