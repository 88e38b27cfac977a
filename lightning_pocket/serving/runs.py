"""What is known of a run: its figures, and whether it is training now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.activity import is_active, stamps
from lightning_pocket.reports.collect import RunResult, read_run

from .folder import ServedFolder

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
        now = stamps(path)
        if path not in self._known or self._known[path][0] != now:
            self._known[path] = (now, *self._read(path))
        _, result, error = self._known[path]
        state = state_of(path, result.manifest if result else {})
        state = "unreadable" if result is None and state != "training" else state
        return ShownRun(path, self._folder.name(path), kind, state, result, error)

    def _read(self, path: Path) -> tuple[RunResult | None, str]:
        try:
            return read_run(path), ""
        except PocketError as error:
            return None, str(error)


def state_of(run: Path, manifest: dict[str, Any]) -> str:
    """Return ``finished``, ``training``, ``failed`` or ``stopped``.

    Args:
        run: Folder of a run, or of a cross-validation, which trains while one of its folds does.
        manifest: Content of its manifest.
    """
    if manifest.get("finished"):
        return "finished"
    if is_active(run):
        return "training"
    folds = run.glob("fold_*/error.json") if (run / "crossval.json").is_file() else ()
    return "failed" if (run / "error.json").is_file() or any(folds) else "stopped"
