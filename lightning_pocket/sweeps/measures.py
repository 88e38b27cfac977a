"""The numbers by which trials are judged, read from what their runs left."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.studies.table import METRICS
from lightning_pocket.studies.yaml_fields import suggest

from .shrunk import PREFIX, SHRUNK, score_of, shrunk_value

#: Predicted by `pocket profile`: multiply-accumulates of a patch, and the memory of a training and a prediction in MiB.
PROFILED = ("macs", "train_mib", "infer_mib")
#: Of the training itself: trainable parameters, milliseconds per step, seconds in all.
TRAINED = ("parameters", "step_ms", "train_s")
#: Every metric but those of the validation.
KNOWN = (*METRICS, *TRAINED, *PROFILED, *SHRUNK)
_LOGGED = ("val/", "train/")


@dataclass(frozen=True)
class Measured:
    """A metric of a trial.

    Args:
        values: Its value in each run, of means over cases where it is a score of cases.
        cases_std: Standard deviation over the cases, where there is one run of such a score.
        cases_median: Median over the cases, likewise.
    """

    values: list[float]
    cases_std: float | None = None
    cases_median: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the runs."""
        return fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the runs, over the cases of a single one; None where there is none."""
        return stdev(self.values) if len(self.values) > 1 else self.cases_std


def check_metric(name: str, where: str) -> None:
    """Refuse a metric that no run has; those of the validation are checked when the settings are known.

    Args:
        name: Name of the metric.
        where: Names the file and the key in errors.

    Raises:
        PocketError: If there is none of this name.
    """
    if name not in KNOWN and not name.startswith(_LOGGED):
        raise PocketError(f"{where}: no metric is called {name!r}.{suggest(name, [*KNOWN, 'val/dice', 'val/loss'])}")


def check_for_task(name: str, logged: Sequence[str], classifies: bool, where: str) -> None:
    """Refuse a metric that the task of the runs does not have.

    Args:
        name: Name of the metric.
        logged: What the task logs while it trains.
        classifies: Whether the task judges images as a whole.
        where: Names the file in errors.

    Raises:
        PocketError: If the task has none of this name.
    """
    if name.startswith(_LOGGED) and name not in logged:
        raise PocketError(f"{where}: no metric is called {name!r}. The task logs {', '.join(logged)}.")
    score = name.removeprefix(PREFIX)
    if score in METRICS and (score in ("auc", "accuracy")) != classifies:
        kind = "a classification has auc and accuracy" if classifies else "a segmentation has dice and the like"
        raise PocketError(f"{where}: the runs have no {name!r}; {kind}.")


def measure_trial(
    runs: Sequence[Path], objectives: Sequence[str], others: Sequence[str], checkpoint: str
) -> dict[str, Measured]:
    """Return what the runs of a trial came to.

    Args:
        runs: Their folders.
        objectives: Metrics that every run must have.
        others: Metrics that are left out where a run has none, such as distances in pixels of images in mm.
        checkpoint: ``last`` or ``best``: of which epoch a metric that was logged counts.

    Raises:
        PocketError: If an objective is missing, or is not a finite number.
    """
    results = [read_run(run) for run in runs]
    found = {}
    for metric in dict.fromkeys([*objectives, *others]):
        given = [_value(result, metric, checkpoint) for result in results]
        values = [value for value in given if value is not None and math.isfinite(value)]
        if len(values) == len(results):
            found[metric] = _measured(results, metric, values)
        elif metric in objectives:
            place, value = next(
                (run, v) for run, v in zip(runs, given, strict=True) if v is None or not math.isfinite(v)
            )
            raise PocketError(f"{place}: {metric} {'is missing' if value is None else f'is {value}'}.")
    return found


def _measured(results: Sequence[RunResult], metric: str, values: list[float]) -> Measured:
    scores = results[0].finite(metric) if len(results) == 1 and metric in results[0].scores else []
    if not scores:
        return Measured(values)
    return Measured(values, stdev(scores) if len(scores) > 1 else None, median(scores))


def _value(result: RunResult, metric: str, checkpoint: str) -> float | None:
    if metric.startswith(_LOGGED):
        curve = dict(result.curves.get(metric, []))  # by epoch
        if checkpoint == "best":  # of the tested weights, whatever the best value of this metric is
            return curve.get(result.manifest.get("best_epoch", math.nan))
        return curve[max(curve)] if curve else None
    if metric.startswith(PREFIX):
        return shrunk_value(result.path, metric)
    if metric in METRICS:
        return score_of(result, metric)
    if metric in PROFILED:
        return _profiled(result.path, metric)
    value: float | None = getattr(result, metric)
    return None if value is None else float(value)


def profile_table(run: Path) -> Path:
    """Return where `pocket profile` writes what the network of a run costs."""
    return run.parent / f"{run.name}.profile" / "table.csv"


def _profiled(run: Path, metric: str) -> float | None:
    table = profile_table(run)
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as file:
        cell = next(iter(csv.DictReader(file)), {}).get(metric)
    return float(cell) if cell else None


def as_plain(measured: dict[str, Measured]) -> dict[str, Any]:
    """Return measurements as plain values, to be stored with a trial."""
    return {
        name: {"values": entry.values, "cases_std": entry.cases_std, "cases_median": entry.cases_median}
        for name, entry in measured.items()
    }


def from_plain(stored: dict[str, Any]) -> dict[str, Measured]:
    """Undo :func:`as_plain`."""
    return {name: Measured(**entry) for name, entry in stored.items()}
