"""The results of all folds as one: every case once, scored by the network that has not seen it."""

from __future__ import annotations

import contextlib
import csv
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.locks import FileLock
from lightning_pocket.reports.tested import read_tested
from lightning_pocket.storage import write_csv, write_json

from .crossval import CASES, FRESH_LOCK, MEND, RECORD, Fold, Plan
from .run_settings import check_settings

Row = dict[str, str]


@dataclass(frozen=True)
class OutOfFold:
    """The scores of all cases.

    Args:
        rows: One per case, with its ``fold``.
        done: Numbers of the folds that are trained and tested.
        warnings: What a reader must know of the set of cases.
    """

    rows: list[Row]
    done: tuple[int, ...]
    warnings: list[str]


def collect(plan: Plan) -> OutOfFold:
    """Read the scores of the folds that are done.

    Cases that several folds test, since the data set fixes them as test cases, are held out by no fold: they are left
    out, with a warning.

    Args:
        plan: The cross-validation.

    Raises:
        PocketError: If the folds were not trained on the same data with the same settings, or not scored alike.
    """
    done = tuple(number for number in plan.folds if plan.is_done(number))
    _check_alike(plan, done)
    rows = [row for number in done for row in _read(plan.fold(number))]
    columns = {tuple(row) for row in rows}
    if len(columns) > 1:
        raise PocketError(f"{plan.folder}: the folds were scored with other columns in cases.csv. Test them again.")
    times = Counter(row["subject"] for row in rows)
    repeated = sorted(subject for subject, count in times.items() if count > 1)
    once = sorted((row for row in rows if times[row["subject"]] == 1), key=lambda row: row["subject"])
    return OutOfFold(once, done, _warnings(plan, done, repeated, {row["subject"] for row in once}))


def write(plan: Plan, results: OutOfFold, failures: Mapping[str, str]) -> None:
    """Write ``cases.csv`` and ``crossval.json``.

    Args:
        plan: The cross-validation.
        results: Its results.
        failures: Why folds failed, by their name.
    """
    if results.rows:
        write_csv(plan.folder / CASES, list(results.rows[0]), results.rows)
    runs = {str(number): _describe(plan.fold(number)) for number in results.done}
    record = {
        "command": shlex.join(["pocket", *plan.command]),
        "options": list(plan.options),
        "checkpoint": plan.checkpoint,
        "folds": list(plan.folds),
        "cases": len(results.rows),
        "runs": runs,
        "failed": dict(failures),
        "warnings": results.warnings,
    }
    write_json(plan.folder / RECORD, record | _totals(list(runs.values())))


@contextlib.contextmanager
def begun(plan: Plan) -> Iterator[Plan]:
    """Mark the folder as a cross-validation before any fold is in it, and drop what starts over.

    A process that starts over holds a lock as long as it works. One that is told to start over in the meantime joins
    it: what the other has trained since its start counts.

    Args:
        plan: The cross-validation.

    Yields:
        The plan, with the time since which it starts over.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.folder / FRESH_LOCK)
    first = plan.fresh and lock.acquire()
    try:
        if plan.fresh:
            plan = replace(plan, since=lock.since())
        if first:
            (plan.folder / CASES).unlink(missing_ok=True)
        if first or not (plan.folder / RECORD).is_file():
            write(plan, OutOfFold([], (), []), {})
        yield plan
    finally:
        lock.release()


def _check_alike(plan: Plan, done: Sequence[int]) -> None:
    """Refuse folds that another process has trained with other settings or on other data in the meantime."""
    first: dict[Any, int] = {}
    for number in done:
        fold = plan.fold(number)
        check_settings(fold.run, plan.settings_of(number), MEND)
        first.setdefault(fold.manifest().get("data", {}).get("hash"), number)
    if len(first) > 1:
        one, other, *_ = first.values()
        raise PocketError(
            f"{plan.folder}: fold {other} was trained on differently prepared data than fold {one}. Start the one with "
            f"the wrong data over, such as with --fresh --only {other}."
        )


def _read(fold: Fold) -> list[Row]:
    with fold.cases.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{"subject": row.pop("subject"), "fold": str(fold.number), **row} for row in rows]


def _warnings(plan: Plan, done: Sequence[int], repeated: Sequence[str], found: set[str]) -> list[str]:
    texts = []
    if len(done) < len(plan.folds):
        left = ", ".join(str(number) for number in plan.folds if number not in done)
        texts.append(f"{len(done)} of {len(plan.folds)} folds are done; without results: {left}.")
    if repeated:
        texts.append(
            f"{_count(repeated)} tested by more than one fold, such as {repeated[0]!r}, and left out of {CASES}."
        )
    due = {name for name, fold in (plan.expected or {}).items() if fold in done}
    missing = sorted(due - found - set(repeated))
    if missing:
        texts.append(f"{_count(missing)} missing, such as {missing[0]!r}: the test of its fold did not score it.")
    return texts


def _count(names: Sequence[str]) -> str:
    return "1 case is" if len(names) == 1 else f"{len(names)} cases are"


def _describe(fold: Fold) -> dict[str, Any]:
    """Return what identifies the run of a fold, and what it took."""
    manifest = fold.manifest()
    keys = ("parameters", "train_seconds", "steps", "git_commit", "hardware", "started_at", "finished_at")
    kept = {key: manifest.get(key) for key in keys}
    return kept | {"run": fold.run.path.name, "test_seconds": read_tested(fold.run.path).get("seconds")}


def _totals(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    seconds = [run[key] for run in runs for key in ("train_seconds", "test_seconds") if run[key] is not None]
    return {
        "parameters": runs[0]["parameters"] if runs else None,
        "git_commit": runs[0]["git_commit"] if runs else None,
        "seconds": round(sum(seconds), 3),
    }
