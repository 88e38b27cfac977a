"""The runs of a table, one after the other, shared with other processes that make the same table."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.launch import run_tied
from lightning_pocket.locks import FileLock
from lightning_pocket.reports.tested import is_tested
from lightning_pocket.run_folder import RunFolder
from lightning_pocket.storage import write_json

from .jobs import PAUSE_S
from .run_settings import check_data, check_settings, resolve_all
from .table import ExperimentTable

#: Says that the runs in a folder are one experiment with several seeds: loggers show them as one group.
SEEDS = "seeds.json"


def mark_seeds(experiments: ExperimentTable, folder: Path, places: Iterable[str]) -> None:
    """Mark the folder of each row of a table with seeds as the place of one experiment.

    Args:
        experiments: The table.
        folder: Folder of all runs.
        places: Places of the runs below the folder.
    """
    for row in {place.rpartition("/")[0] for place in places} - {""}:
        write_json(folder / row / SEEDS, {"row": row, "seeds": experiments.seeds})


class TableRuns:
    """Trains and tests runs until all are done or have failed.

    A run is taken under a lock, so several of these, on one machine or on several that share a folder, never work on
    the same run; each takes the next free one, and waits for the others at the end. A cross-validation has such locks
    for its folds: where two processes come to it they share them.

    Args:
        folder: Folder of all runs.
        commands: Arguments of ``pocket`` that train and test each run, by its place below the folder.
        checkpoint: ``last`` or ``best``: weights that are tested.
    """

    def __init__(self, folder: Path, commands: Mapping[str, Sequence[Sequence[str]]], checkpoint: str) -> None:
        self.folder = folder
        self.commands = commands
        self.checkpoint = checkpoint
        self._announced: set[str] = set()

    def run(self) -> dict[str, str]:
        """Do the work.

        Returns:
            Why each run that failed did so, by its place.
        """
        failures: dict[str, str] = {}
        done = self._done()
        for place in done:
            print(f"{place}: is trained and tested", flush=True)  # noqa: T201
        waiting = [place for place in self.commands if place not in done]
        while waiting:
            taken = next((found for place in waiting if (found := self._take(place)) is not None), None)
            if taken is None:
                time.sleep(PAUSE_S)
                continue
            place, lock = taken
            try:
                reason = self._make(place)
            finally:
                lock.release()
            waiting.remove(place)
            if reason:
                failures[place] = reason
        return failures

    def _done(self) -> list[str]:
        """Return the runs that are trained and tested with the settings and the data that they have now."""
        tested = [place for place in self.commands if self._is_tested(place)]
        settings = resolve_all([self.commands[place][0][1:] for place in tested])
        return [place for place, now in zip(tested, settings, strict=True) if now and self._fits(place, now)]

    def _is_tested(self, place: str) -> bool:
        run = RunFolder(self.folder / place)
        return run.config.is_file() and run.finished and is_tested(run.path, self.checkpoint)

    def _fits(self, place: str, settings: dict[str, Any]) -> bool:
        run = RunFolder(self.folder / place)
        try:
            check_settings(run, settings, "")
            check_data(run, settings)
        except PocketError:  # `pocket fit` says it
            return False
        return True

    def _take(self, place: str) -> tuple[str, FileLock] | None:
        """Return a run with its lock, None where another process works on it."""
        run = self.folder / place
        run.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.with_name(f".{run.name}.table.lock"))
        if self._shares_folds(place) or lock.acquire():
            return place, lock
        if place not in self._announced:
            self._announced.add(place)
            print(f"{place}: {lock.holder()} works on it; its result will be used", flush=True)  # noqa: T201
        return None

    def _shares_folds(self, place: str) -> bool:
        return self.commands[place][0][0] == "crossval"

    def _make(self, place: str) -> str:
        """Run the commands of a run and return why it failed, empty where it did not."""
        for arguments in self.commands[place]:
            if arguments[0] == "test" and is_tested(self.folder / place, self.checkpoint):
                continue
            print(f"\n$ {shlex.join(['pocket', *arguments])}", flush=True)  # noqa: T201 (this module shows progress)
            status = run_tied(arguments)
            if status:
                return f"`pocket {arguments[0]}` ended with status {status}"
        return ""
