"""How far the jobs of a study are: bars on a terminal, lines of what begins and ends everywhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from .terminal import can_redraw

_STATES = {"fit": "training", "test": "testing"}


class JobProgress:
    """Shows what happens to each job; to be used in a ``with`` statement.

    Args:
        names: Names of the jobs, such as ``fold 0``; others get a bar when they are first shown.
        epochs: Epochs of each training; None where they are not known beforehand.
    """

    def __init__(self, names: Sequence[str], epochs: int | None) -> None:
        self._names = names
        self._epochs = epochs
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> JobProgress:
        if can_redraw(sys.stderr):
            columns = (
                TextColumn("{task.fields[job]} {task.description}"),
                BarColumn(),
                TextColumn("epoch {task.completed:.0f} of {task.total}"),
                TimeRemainingColumn(),
            )
            self._bars = Progress(*columns, console=Console(stderr=True), redirect_stdout=False)
            self._bars.start()
            for name in self._names:
                self._tasks[name] = self._bars.add_task("waiting", total=self._epochs, start=False, job=name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    @property
    def live(self) -> bool:
        """Whether there are bars, which want to know the epoch again and again."""
        return self._bars is not None

    def say(self, name: str, text: str) -> None:
        """Print a line about a job, in one piece so that a command in it can be copied."""
        line = f"{name}: {text}"
        if self._bars is not None and sys.stdout.isatty():
            self._bars.console.print(Text(line), soft_wrap=True)  # above the bars
        else:
            print(line, flush=True)  # noqa: T201 (this module shows progress)

    def show(self, name: str, state: str, epoch: int | None) -> None:
        """Show on a terminal what a job does.

        Args:
            name: Name of the job.
            state: ``fit``, ``test``, or words.
            epoch: Epochs that are done; None leaves them as they are.
        """
        if self._bars is None:
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task("waiting", total=self._epochs, start=False, job=name)
        task = self._tasks[name]
        if epoch:
            self._bars.start_task(task)
        self._bars.update(task, description=_STATES.get(state, state), completed=epoch)

    def drop(self, name: str) -> None:
        """Take the bar of a job away, if it has one: studies of many jobs show those that run."""
        task = self._tasks.pop(name, None)
        if self._bars is not None and task is not None:
            self._bars.remove_task(task)
