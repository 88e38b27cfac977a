"""Runs in this process what studies start in processes of their own, without the seconds that each of those costs."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import IO, Any
from unittest import mock

from lightning_pocket.cli import main
from lightning_pocket.commands import settings_process
from lightning_pocket.launch import program
from lightning_pocket.sweeps import resolve_process


@contextlib.contextmanager
def in_this_process(start: Callable[..., Any] | None = None) -> Iterator[None]:
    """Let ``pocket`` commands that are started meanwhile run here, one after the other, with the output they had.

    Args:
        start: Starts the trainings of a study, in the place of ``start_tied``.
    """
    with (
        mock.patch("lightning_pocket.studies.jobs.start_tied", start or _start),
        mock.patch("lightning_pocket.studies.run_settings.subprocess", SimpleNamespace(run=_run)),
        mock.patch("lightning_pocket.studies.table_runs.run_tied", _status),
        mock.patch("lightning_pocket.sweeps.resolve.subprocess", SimpleNamespace(run=_run)),
    ):
        yield


def _start(arguments: Sequence[str], output: IO[bytes], environment: Mapping[str, str]) -> SimpleNamespace:
    """Stand for ``start_tied``: the process that is returned has ended."""
    printed = io.StringIO()
    with mock.patch.dict(os.environ, environment), _redirected(printed, printed):
        status = _status(arguments)
    output.write(printed.getvalue().encode())
    return SimpleNamespace(poll=lambda: status, stdin=None)


def _run(command: Sequence[str], **how: Any) -> SimpleNamespace:
    """Stand for ``subprocess.run`` with captured output."""
    printed, errors = io.StringIO(), io.StringIO()
    with _redirected(printed, errors):
        answering = [module for module in (settings_process, resolve_process) if command[-1] == module.__name__]
        if answering:
            with mock.patch("sys.stdin", io.StringIO(how["input"])):
                answering[0].main()
            status = 0
        else:
            assert list(command[: len(program())]) == program()
            status = _status(command[len(program()) :])
    return SimpleNamespace(returncode=status, stdout=printed.getvalue(), stderr=errors.getvalue())


def _status(arguments: Sequence[str]) -> int:
    try:
        main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


@contextlib.contextmanager
def _redirected(output: IO[str], errors: IO[str]) -> Iterator[None]:
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        yield
