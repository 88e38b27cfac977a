"""Shows how far a training or a test is: bars on a terminal, a line every now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Protocol

from rich.live import Live
from typing_extensions import override

from .status import Status
from .terminal import can_redraw, error_console, printing_above


class StatusDisplay(Protocol):
    """Where a status is shown."""

    def is_due(self) -> bool:
        """Whether it is time to show another status; asked often, so it is quick."""

    def show(self, status: Status, milestone: bool = False) -> None:
        """Show a status; a milestone, such as the end of an epoch, is worth a line in a log whenever it comes."""

    def close(self, keep: bool = False) -> None:
        """Leave the terminal as it was; ``keep`` what was shown last, such as where the work has failed."""


def open_display(refresh_hz: float, line_every_s: float) -> StatusDisplay:
    """Return what fits the standard error of this process.

    Args:
        refresh_hz: How often a bar is drawn, per second.
        line_every_s: Seconds after which a log gets a line.
    """
    return Bars(refresh_hz) if can_redraw(sys.stderr) else Lines(line_every_s)


class Bars(StatusDisplay):
    """Draws a status again and again at the bottom of a terminal; what is printed meanwhile goes above it.

    Args:
        refresh_hz: How often, per second.
    """

    def __init__(self, refresh_hz: float) -> None:
        self._every_s = 1 / refresh_hz
        self._due = 0.0
        console = error_console()
        self._status: Status | None = None
        self._live = Live(
            get_renderable=lambda: self._status or "",
            console=console,
            refresh_per_second=refresh_hz,
            transient=True,
            redirect_stdout=False,  # rich would break long lines
            redirect_stderr=False,
        )
        self._open = contextlib.ExitStack()
        self._open.enter_context(printing_above(console))
        self._live.start()

    @override
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    @override
    def show(self, status: Status, milestone: bool = False) -> None:
        self._status = status
        self._due = time.monotonic() + self._every_s

    @override
    def close(self, keep: bool = False) -> None:
        self._live.transient = not (keep and self._status)
        self._live.stop()
        self._open.close()


class Lines(StatusDisplay):
    """Prints a status as one line: milestones, and in between one every so often.

    Args:
        every_s: Seconds between two lines, where no milestone comes before.
    """

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._due = time.monotonic() + every_s

    @override
    def is_due(self) -> bool:
        return time.monotonic() >= self._due

    @override
    def show(self, status: Status, milestone: bool = False) -> None:
        if milestone or self.is_due():
            print(status.line(), file=sys.stderr, flush=True)  # noqa: T201 (this module shows progress)
            self._due = time.monotonic() + self._every_s

    @override
    def close(self, keep: bool = False) -> None:
        """Nothing: lines stay where they are."""
