"""Read what runs left on disk."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json
from lightning_pocket.types import CASE_METRICS

from .classified import Classified, as_classified, is_classified

_Rows = list[dict[str, str]]
#: Columns of ``metrics.csv`` that hold the peak memory of training in MiB, by what was measured.
_PEAKS = {"GPU": "profile/peak_cuda_mib", "process": "profile/peak_rss_mib"}
_CURVES = ("train/", "val/")
_COSTS = ("profile/",)
#: What columns of ``cases.csv`` with the size of a mask begin with.
_SIZES = ("voxels", "predicted")
#: Score over the classes of all images together -> its column in ``test/classes.csv``.
OVERLAPS = {"miou": "iou", "mean_recall": "recall", "mean_precision": "precision"}
#: Test errors of the epoch with the least validation error, and of the last; error on the training images at the end.
ERRORS = ("best_error", "last_error", "train_error")
#: Parts of a manifest that hold others.
_PARTS = ("data", "hardware", "versions", "git_commit")


@dataclass(frozen=True)
class RunResult:
    """The figures of one run.

    Args:
        name: Last part of the run folder's path.
        parameters: Trainable parameters of the network.
        step_ms: Median duration of a training step in ms; None where none was measured.
        scores: Test results of each case by metric, in the order of ``subjects``; empty where it was not tested.
        path: The run folder.
        subjects: The tested cases.
        curves: Series of training and validation by metric: epoch, counted from 1, and value.
        peak_mib: Peak memory of training in MiB: ``GPU``, ``process``, or what of them was measured.
        train_s: Seconds that training took over all attempts, validation included; None where they are not known.
        manifest: Content of ``manifest.json``.
        classified: Test results of a run that classifies whole images, None of others.
        costs: The same of time and memory.
        overall: Scores of all cases together that no score of a case has a mean of, such as ``miou``.
        repeated: Class or region -> an earlier one that is the same in every case, such as a region of one class.
    """

    name: str
    parameters: int
    step_ms: float | None
    scores: dict[str, list[float]] = field(default_factory=dict)
    path: Path = Path()
    subjects: list[str] = field(default_factory=list)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    peak_mib: dict[str, float] = field(default_factory=dict)
    train_s: float | None = None
    manifest: dict[str, Any] = field(default_factory=dict)
    classified: Classified | None = None
    repeated: dict[str, str] = field(default_factory=dict)
    overall: dict[str, float] = field(default_factory=dict)
    costs: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def finite(self, metric: str) -> list[float]:
        """Return a test metric of the cases in which it is a finite number; only these count."""
        return [value for value in self.scores[metric] if math.isfinite(value)]

    def mean(self, metric: str) -> float:
        """Return the mean of a test metric over the cases that count, NaN without any."""
        values = self.finite(metric)
        return fmean(values) if values else math.nan

    def spread(self, metric: str) -> float:
        """Return the standard deviation of a test metric over the cases that count, 0 for a single case."""
        values = self.finite(metric)
        return stdev(values) if len(values) > 1 else 0.0

    def show(self, metric: str, form: str) -> str:
        """Return mean ± standard deviation of a test metric; of a single case, which has no deviation, its value.

        Args:
            metric: Column of the scores, with a finite value at least.
            form: How numbers are written.
        """
        mean = f"{self.mean(metric):{form}}"
        return f"{mean} ± {self.spread(metric):{form}}" if len(self.finite(metric)) > 1 else mean

    def median(self, metric: str) -> float:
        """Return the median of a test metric over the cases that count, NaN without any."""
        values = self.finite(metric)
        return median(values) if values else math.nan

    def by_case(self, metric: str) -> dict[str, float]:
        """Return a test metric of each case, empty where it was not computed."""
        return dict(zip(self.subjects, self.scores.get(metric, []), strict=False))


def read_runs(paths: Sequence[Path]) -> list[RunResult]:
    """Read run folders, and name each by its whole path where the last part would not tell it from another.

    Raises:
        PocketError: If one holds no run, or none is given.
    """
    if not paths:
        raise PocketError("runs: none given; name at least one run folder.")
    results = [read_run(path) for path in paths]
    names = [result.name for result in results]
    return [replace(r, name=r.path.as_posix()) if names.count(r.name) > 1 else r for r in results]


def read_run(path: Path) -> RunResult:
    """Read a run folder, or the folder of a cross-validation: see :func:`join_folds`.

    Raises:
        PocketError: If it holds no run, or something in it is damaged, such as a table that holds no number where one
            is expected.
    """
    try:
        return _read_run(path)
    except PocketError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OSError, csv.Error) as error:
        raise PocketError(f"{path}: cannot be read as a run ({type(error).__name__}: {error}).") from error


def _read_run(path: Path) -> RunResult:
    crossval = path / "crossval.json"
    if crossval.is_file():
        from .join_folds import join_folds

        record = read_json(crossval)
        runs = [read_run(path / run["run"]) for run in record["runs"].values()]
        return join_folds(path, record, runs, _tested(path / "cases.csv"))
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise PocketError(f"{path}: no run here (no manifest.json). Train first with `pocket fit --run_dir {path}`.")
    content = _known(manifest)
    logged, log = _rows(path / "metrics.csv"), path / "metrics.csv"
    steps = _series(log, logged, "profile/step_ms")
    peaks = {kind: _series(log, logged, column) for kind, column in _PEAKS.items()}
    return RunResult(
        name=path.name,
        parameters=int(content.get("deployed_parameters", content["parameters"])),
        step_ms=steps[-1] if steps else None,
        path=path,
        curves=_curves(log, logged, _CURVES),
        costs=_curves(log, logged, _COSTS),
        peak_mib={kind: max(values) for kind, values in peaks.items() if values},
        train_s=_train_seconds(content, steps, _series(log, logged, "profile/data_wait_share")),
        manifest=content,
        overall=_overall(path),
        **_tested(path / "test" / "cases.csv"),
    )


def _known(manifest: Path) -> dict[str, Any]:
    """Return a manifest without what is not known in it.

    Raises:
        PocketError: If a part of it is no mapping that should be one.
    """
    content = {key: value for key, value in read_json(manifest).items() if value is not None}
    for key in _PARTS:
        if not isinstance(content.get(key, {}), dict):
            raise PocketError(
                f"{manifest}: {key} holds {content[key]!r}, expected a mapping. Mend or replace the file."
            )
    return content


def _tested(table: Path) -> dict[str, Any]:
    """Return what a table of cases says of them, by the names of the fields of a result."""
    cases = _rows(table)
    metrics = [name for name in (cases[0] if cases else {}) if metric_of(name)]
    return {
        "scores": {name: [_number(table, name, case[name]) for case in cases] for name in metrics},
        "subjects": [case["subject"] for case in cases],
        "classified": as_classified(cases, str(table)) if cases and is_classified(list(cases[0])) else None,
        "repeated": _repeated(cases),
    }


def _overall(path: Path) -> dict[str, float]:
    """Return the scores of all cases together: means over the classes, and errors along the training."""
    table = path / "test" / "classes.csv"
    classes = _rows(table)
    found = {}
    for name, column in OVERLAPS.items() if classes else ():
        values = [_number(table, column, row[column]) for row in classes]
        counted = [value for value in values if math.isfinite(value)]  # NaN: a class that does not occur
        if counted:
            found[name] = fmean(counted)
    return found | _errors(path / "error_rates.csv")


def _errors(table: Path) -> dict[str, float]:
    """Return what ``ErrorRates`` has found, by the names of ``ERRORS``."""
    rows = _rows(table)
    if not rows:
        return {}
    validated = [_number(table, "val_error", row["val_error"]) for row in rows]
    tested = [_number(table, "test_error", row["test_error"]) for row in rows]
    values = (tested[validated.index(min(validated))], tested[-1], *_series(table, rows, "train_error")[-1:])
    return dict(zip(ERRORS, values, strict=False))


def _repeated(cases: _Rows) -> dict[str, str]:
    """Return the classes and regions whose scores and sizes are all those of an earlier one, and which."""
    columns = [column for column in (cases[0] if cases else {}) if column not in CASE_METRICS and metric_of(column)]
    earlier: dict[tuple[str | None, ...], str] = {}
    found = {}
    for name in dict.fromkeys(group_of(column) for column in columns):
        cells = tuple(case.get(f"{kind}_{name}") for case in cases for kind in (*CASE_METRICS, *_SIZES))
        if cells in earlier:
            found[name] = earlier[cells]
        earlier.setdefault(cells, name)
    return found


def metric_of(column: str) -> str | None:
    """Return the case metric that a column of ``cases.csv`` holds, over all classes or of one; None for others."""
    return next((metric for metric in CASE_METRICS if column == metric or column.startswith(f"{metric}_")), None)


def group_of(column: str) -> str:
    """Return the class or region that a column of scores is of; empty for the means over the classes."""
    return column.removeprefix(metric_of(column) or column).removeprefix("_")


def _train_seconds(manifest: dict[str, Any], steps_ms: list[float], wait_shares: list[float]) -> float | None:
    """Return what the manifest says, else the time of all steps with the wait for data."""
    if manifest.get("train_seconds") is not None:
        return float(manifest["train_seconds"])
    if not steps_ms or not manifest.get("steps"):
        return None
    share = wait_shares[-1] if wait_shares else 0.0
    return float(manifest["steps"]) * steps_ms[-1] / 1000 / (1 - share) if share < 1 else None


def _series(path: Path, rows: _Rows, column: str) -> list[float]:
    return [_number(path, column, row[column]) for row in rows if row.get(column)]


def _curves(path: Path, rows: _Rows, kinds: tuple[str, ...]) -> dict[str, list[tuple[float, float]]]:
    """Return the series whose names begin so, without those that are empty."""
    names = [name for name in (rows[0] if rows else {}) if name.startswith(kinds)]
    return {name: curve for name in names if (curve := _curve(path, rows, name))}


def _curve(path: Path, rows: _Rows, column: str) -> list[tuple[float, float]]:
    """Return epoch and value; of several values in an epoch the last."""
    points = {_number(path, "epoch", row["epoch"]) + 1: row[column] for row in rows if row[column] and row["epoch"]}
    return [(epoch, _number(path, column, points[epoch])) for epoch in sorted(points)]


def _number(path: Path, column: str, cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise PocketError(f"{path}: column {column} holds {cell!r}, expected a number. Mend or delete it.") from None


def _rows(path: Path) -> _Rows:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
