"""Progress of long work: a bar on a terminal, a few lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .terminal import can_redraw

_MANY_WINDOWS = 50


@contextlib.contextmanager
def show_progress(description: str, total: int, lines: bool = False) -> Iterator[Callable[[], None]]:
    """Show on standard error how much of some work is done.

    Args:
        description: What is being done, such as "preparing".
        total: Number of steps.
        lines: Where standard error is no terminal, print a line at every tenth of the work instead of nothing.

    Yields:
        A function to call after each step.
    """
    if can_redraw(sys.stderr):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda: bar.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if lines and done * 10 // total > (done - 1) * 10 // total:
            print(f"{description} {done}/{total} cases", file=sys.stderr, flush=True)  # noqa: T201

    yield advance


@contextlib.contextmanager
def show_windows(description: str) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show on a terminal how many windows of an image are done.

    Args:
        description: Name of the image.

    Yields:
        A function to call with the number of windows once it is known, and one to call with how many more are done.
    """
    if not can_redraw(sys.stderr):
        yield _lines(description)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=None)
        yield lambda total: bar.update(task, total=total), lambda done: bar.advance(task, done)


def _lines(description: str) -> tuple[Callable[[int], None], Callable[[int], None]]:
    """Print a line at every tenth of the windows, where there are many."""
    total = done = 0

    def begin(windows: int) -> None:
        nonlocal total
        total = windows

    def advance(windows: int) -> None:
        nonlocal done
        done += windows
        if total >= _MANY_WINDOWS and done * 10 // total > (done - windows) * 10 // total:
            print(f"{description}: {done} of {total} windows", file=sys.stderr, flush=True)  # noqa: T201

    return begin, advance
