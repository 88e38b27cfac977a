"""The figures of a cross-validation from those of its folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from lightning_pocket.errors import PocketError

if TYPE_CHECKING:
    from .collect import RunResult


def join_folds(
    path: Path, record: Mapping[str, Any], runs: Sequence[RunResult], tested: Mapping[str, Any]
) -> RunResult:
    """Return one result for the runs of all folds.

    The scores are those of all cases, each by the run that held it out; the time of a step is the median over the
    runs, the peak memory their maximum, the time of training their sum, and curves their mean.

    Args:
        path: Folder of the cross-validation.
        record: Content of its ``crossval.json``.
        runs: The runs of the folds that are done.
        tested: The fields ``scores``, ``subjects`` and ``classified`` of all cases.

    Raises:
        PocketError: If no fold is done.
    """
    if not runs:
        logs = ", ".join(str(log) for fold in record["folds"] if (log := path / f"fold_{fold}.log").is_file())
        where = f"; see {logs}" if logs else ""
        raise PocketError(f"{path}: no fold of this cross-validation is done{where}. Continue it: {record['command']}")
    first = runs[0]
    steps = [run.step_ms for run in runs if run.step_ms is not None]
    seconds = [run.train_s for run in runs if run.train_s is not None]
    data = {key: value for key, value in first.manifest.get("data", {}).items() if key != "split"}
    finished = len(runs) == len(record["folds"])
    return replace(
        first,
        name=path.name,
        path=path,
        step_ms=median(steps) if steps else None,
        curves=_means([run.curves for run in runs]),
        costs=_means([run.costs for run in runs]),
        peak_mib={kind: max(run.peak_mib.get(kind, 0.0) for run in runs) for kind in first.peak_mib},
        train_s=sum(seconds) if len(seconds) == len(runs) else None,
        manifest=first.manifest | {"command": record["command"], "data": data, "finished": finished},
        **tested,
    )


def _means(runs: Sequence[Mapping[str, list[tuple[float, float]]]]) -> dict[str, list[tuple[float, float]]]:
    """Return the mean of each series over the runs at the epochs that all of them have."""
    curves = {}
    for name in runs[0]:
        points = [dict(run.get(name, [])) for run in runs]
        epochs = [epoch for epoch in points[0] if all(epoch in other for other in points)]
        if epochs:
            curves[name] = [(epoch, fmean(other[epoch] for other in points)) for epoch in epochs]
    return curves
