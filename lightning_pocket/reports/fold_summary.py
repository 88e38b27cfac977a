"""The scores of a cross-validation, as tables for terminals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, median, stdev

from lightning_pocket.types import CASE_METRICS

from .tables import print_table

Row = Mapping[str, str]
_CLASS = "dice_"  # the columns that tell which classes there are
_TARGET = "target"  # a column of images that have one class each


def print_folds(rows: Sequence[Row], title: str) -> None:
    """Print the mean scores of each fold, and of all cases what the paper prints: mean ± standard deviation, median.

    Of images that have one class each the scores are those of all images at once, and the confusion matrix is printed.

    Args:
        rows: The cases, with ``subject``, ``fold`` and the columns of ``test/cases.csv``.
        title: A line above the tables.
    """
    if rows and _TARGET in rows[0]:
        from .classified import as_classified, print_classified  # needs torch

        print_classified(as_classified(rows, title), title)
        return
    metrics = [metric for metric in CASE_METRICS if rows and metric in rows[0]]
    if not metrics:
        return
    folds = sorted({int(row["fold"]) for row in rows})
    lines = [_fold_line(fold, [row for row in rows if int(row["fold"]) == fold], metrics) for fold in folds]
    print_table(["fold", "cases", *metrics], lines, title=f"{title}: means of each fold")
    classes = [column.removeprefix(_CLASS) for column in rows[0] if column.startswith(_CLASS)]
    several = len(classes) > 1
    names = [("mean of classes" if several else classes[0] if classes else "", "")]
    names += [(name, f"_{name}") for name in classes] if several else []
    table = []
    for name, suffix in names:
        table.append([name, *(_summary(metric, _values(rows, f"{metric}{suffix}")) for metric in metrics)])
    print_table(["class", *metrics], table, title=f"{len(rows)} cases: mean ± standard deviation (median)")


def _fold_line(fold: int, rows: Sequence[Row], metrics: Sequence[str]) -> list[object]:
    means = [_show(metric, fmean(_values(rows, metric))) for metric in metrics]
    return [fold, len(rows), *means]


def _values(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows]


def _summary(metric: str, values: Sequence[float]) -> str:
    if not all(map(math.isfinite, values)):  # stdev would fail
        return "n/a"
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{_show(metric, fmean(values))} ± {_show(metric, spread)} ({_show(metric, median(values))})"


def _show(metric: str, value: float) -> str:
    """Return distances to hundredths of a mm, shares to four decimals."""
    return f"{value:.2f}" if metric.endswith(("_mm", "_px")) else f"{value:.4f}"
