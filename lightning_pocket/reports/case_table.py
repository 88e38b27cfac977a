"""Scores of cases, as tables for terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from lightning_pocket.types import CASE_METRICS

from .tables import print_table

# The volume-based HD95 is shown where it was asked for; it ranks nothing.
_METRICS = (*CASE_METRICS, "volume_hd95_mm", "volume_hd95_px")
_CLASS = "dice_"  # the columns that tell which classes there are

Row = dict[str, Any]


def print_cases(rows: list[Row], title: str) -> None:
    """Print one row per case, their mean and standard deviation, and what else is known of each class.

    With several classes the table of cases shows the means over the classes and the Dice of each; a second table shows
    every metric of each class as mean ± standard deviation over the cases. A third counts the empty masks, if any: a
    class that is empty in truth or prediction has the best or the worst score by rule.

    Args:
        rows: Numbers, or text that holds one, by column: ``subject``, the metrics of ``types.CASE_METRICS`` alone
            and with ``_NAME`` of a class, and the counts ``voxels_NAME`` and ``predicted_NAME``. Others are not shown.
        title: A line above the first table.
    """
    if not rows:
        return
    metrics = [metric for metric in _METRICS if metric in rows[0]]
    classes = [column.removeprefix(_CLASS) for column in rows[0] if column.startswith(_CLASS)]
    columns = metrics + ([f"{_CLASS}{name}" for name in classes] if len(classes) > 1 else [])
    cells = [[str(row["subject"]), *_cells(row, columns)] for row in rows]
    values = {column: _values(rows, column) for column in columns}
    cells.append([f"mean of {len(rows)}", *(_show(column, _mean(values[column])) for column in columns)])
    cells.append(["std", *(_show(column, _spread(values[column])) for column in columns)])
    print_table(["case", *columns], cells, title=title)
    if len(classes) > 1:
        summaries = [[name, *_summaries(rows, name, metrics)] for name in classes]
        print_table(["class", *metrics], summaries, title="each class, mean ± standard deviation over the cases")
    empty = [(name, *counts) for name in classes if any(counts := _count_empty(rows, name))]
    if empty:
        print_table(["class", "truth", "prediction", "both"], empty, title=f"empty masks, of {len(rows)} cases")


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")


def _spread(values: Sequence[float]) -> float:
    # One case does not tell, and stdev fails where a value is not finite.
    return stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else float("nan")


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    return [_show(column, float(row[column])) if row.get(column) not in (None, "") else "" for column in columns]


def _values(rows: Sequence[Row], column: str) -> list[float]:
    return [float(row[column]) for row in rows if row.get(column) not in (None, "")]


def _summaries(rows: Sequence[Row], name: str, metrics: Sequence[str]) -> list[str]:
    columns = [(metric, _values(rows, f"{metric}_{name}")) for metric in metrics]
    return [f"{_show(metric, _mean(values))} ± {_show(metric, _spread(values))}" for metric, values in columns]


def _show(column: str, value: float) -> str:
    """Return distances to hundredths of a mm or pixel, shares to four decimals."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.2f}" if ("_mm" in column or "_px" in column) and not column.startswith(_CLASS) else f"{value:.4f}"


def _count_empty(rows: Sequence[Row], name: str) -> tuple[int, int, int]:
    """Return how many masks of a class are empty in the truth, in the prediction, and in both."""
    pairs = [(row.get(f"voxels_{name}"), row.get(f"predicted_{name}")) for row in rows]
    empty = [(float(t) == 0, float(p) == 0) for t, p in pairs if t not in (None, "") and p not in (None, "")]
    return sum(t for t, _ in empty), sum(p for _, p in empty), sum(t and p for t, p in empty)
