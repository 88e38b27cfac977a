"""What is known of a run: its figures, and whether it is training now."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.processes import is_alive
from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.storage import read_json

from .folder import ServedFolder

#: Files whose change makes a run be read again.
_FILES = ("manifest.json", "metrics.csv", "crossval.json", "cases.csv", "test/cases.csv", "error.json")
#: A run of another machine is taken to train where it has written something in the last so many seconds.
_SILENT_S = 900.0
#: What is shown of the scores: the first of these that a run has.
_VALIDATED = ("val/dice", "val/auc", "val/accuracy")


@dataclass(frozen=True)
class ShownRun:
    """A run as it is listed.

    Args:
        path: Its folder.
        name: Its path from the folder that is shown.
        kind: ``run``, ``fold`` or ``cross-validation``.
        state: ``training``, ``finished``, ``failed``, ``stopped`` or ``unreadable``.
        result: Its figures; None where they cannot be read.
        error: Why they cannot be read.
    """

    path: Path
    name: str
    kind: str
    state: str
    result: RunResult | None
    error: str = ""

    @property
    def tested(self) -> float | None:
        """Mean test Dice over the cases, or the AUC of a classification; None before the test."""
        if self.result is None:
            return None
        if "dice" in self.result.scores and self.result.finite("dice"):
            return self.result.mean("dice")
        return self.result.classified.scores["auc"] if self.result.classified else None

    @property
    def validated(self) -> float | None:
        """The last validation Dice, AUC or accuracy; None before the first validation."""
        curves = self.result.curves if self.result else {}
        last = [curves[name][-1][1] for name in _VALIDATED if name in curves]
        return next((value for value in last if math.isfinite(value)), None)


class Runs:
    """Reads runs, and those that have not changed only once.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: ServedFolder) -> None:
        self._folder = folder
        self._known: dict[Path, tuple[Sequence[object], RunResult | None, str]] = {}

    def read(self, path: Path, kind: str) -> ShownRun:
        """Return what is known of a run.

        Args:
            path: Its folder.
            kind: What it is.
        """
        stamps = _stamps(path)
        if path not in self._known or self._known[path][0] != stamps:
            self._known[path] = (stamps, *self._read(path))
        _, result, error = self._known[path]
        state = state_of(path, result.manifest if result else {})
        state = "unreadable" if result is None and state != "training" else state
        return ShownRun(path, self._folder.name(path), kind, state, result, error)

    def _read(self, path: Path) -> tuple[RunResult | None, str]:
        try:
            self._folder.check(path)
            return read_run(path), ""
        except PocketError as error:
            return None, str(error)
        except (LookupError, TypeError, ValueError, OSError) as error:
            return None, f"{path}: cannot be read as a run ({type(error).__name__}: {error})."


def state_of(run: Path, manifest: dict[str, Any]) -> str:
    """Return ``finished``, ``training``, ``failed`` or ``stopped``.

    Args:
        run: Folder of a run, or of a cross-validation, which trains while one of its folds does.
        manifest: Content of its manifest.
    """
    if manifest.get("finished"):
        return "finished"
    folds = sorted(run.glob("fold_*")) if (run / "crossval.json").is_file() else []
    if any(map(is_training, (run, *folds))):
        return "training"
    return "failed" if (run / "error.json").is_file() else "stopped"


def is_training(run: Path) -> bool:
    """Whether a process trains in a folder.

    The lock is only read: to try it could make a training fail that begins in this moment.

    Args:
        run: The run folder.
    """
    try:
        holder = read_json(run / ".lock")
        if holder["host"] == socket.gethostname():
            return is_alive(int(holder["pid"]))
    except (PocketError, LookupError, TypeError, ValueError):
        return False
    return any(time.time() - seconds < _SILENT_S for seconds, _ in filter(None, _stamps(run)))


def _stamps(path: Path) -> list[tuple[float, int] | None]:
    found: list[tuple[float, int] | None] = []
    for name in _FILES:
        try:
            status = (path / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime, status.st_size))
    return found
