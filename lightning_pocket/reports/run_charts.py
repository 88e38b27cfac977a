"""Charts of runs: learning curves, the score of every case, accuracy against size, time and memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_pocket.types import CASE_METRICS

from .charts import Point, dot_chart, line_chart, scatter_chart
from .collect import RunResult, metric_of
from .comparison_tables import METRICS

#: An ``<svg>`` element, and the caption below it.
Chart = tuple[str, str]
#: More curves or strips than this cannot be told apart.
MOST_DRAWN = 12
#: Series of time and memory in ``metrics.csv``, and what their axis is called.
COSTS = {
    "profile/step_ms": "median step (ms)",
    "profile/peak_cuda_mib": "peak GPU memory (MiB)",
    "profile/peak_rss_mib": "peak process memory (MiB)",
}


def is_crossval(result: RunResult) -> bool:
    """Whether a result is that of a cross-validation, whose figures are those of its folds together."""
    return (result.path / "crossval.json").is_file()


def curve_charts(results: Sequence[RunResult], labels: Mapping[str, str]) -> list[Chart]:
    """Return a chart for each series that some run has, with a curve for each run.

    Args:
        results: The runs.
        labels: Name of the vertical axis by series of ``metrics.csv``.
    """
    found, order = [], [result.name for result in results]
    means = ", the mean of the folds" if any(map(is_crossval, results)) else ""
    for name, label in labels.items():
        series = {result.name: result.curves[name] for result in results if name in result.curves}
        if any(math.isfinite(value) for points in series.values() for _, value in points):
            title = f"{label[0].upper()}{label[1:]} by epoch"
            found.append((line_chart(series, "epoch", label, title, order=order), f"{title}{means}."))
    return found


def class_curve(result: RunResult) -> list[Chart]:
    """Return a chart with the validation Dice of each class; none where the run has not several."""
    prefix = "val/dice_"
    series = {name.removeprefix(prefix): curve for name, curve in result.curves.items() if name.startswith(prefix)}
    if len(series) < 2 or not any(math.isfinite(value) for points in series.values() for _, value in points):
        return []
    title = "Validation Dice of each class by epoch"
    means = ", the mean of the folds" if is_crossval(result) else ""
    return [(line_chart(series, "epoch", "validation Dice", title), f"{title}{means}.")]


def case_charts(results: Sequence[RunResult], metric: str, order: Sequence[str] = ()) -> list[Chart]:
    """Return a chart with a test metric of every case, a strip for each run and class; none without a finite value.

    Args:
        results: The runs.
        metric: A metric of ``types.CASE_METRICS``.
        order: Names of all runs of the page, which have the same marks in each chart.
    """
    groups = by_class(results, metric)
    if not any(math.isfinite(v) for runs in groups.values() for cases in runs.values() for v in cases.values()):
        return []
    name = METRICS[metric][0]
    title = f"{name[0].upper()}{name[1:]} of each"
    return [(dot_chart(groups, name, f"{title} case", order), f"{title} test case; bars are means.")]


def by_class(results: Sequence[RunResult], metric: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return a test metric by class, run and case, the mean of several classes first.

    Args:
        results: The runs.
        metric: A metric of ``types.CASE_METRICS``.
    """
    columns = dict.fromkeys(column for r in results for column in r.scores if metric_of(column) == metric)
    classes = {column: column.removeprefix(f"{metric}_") for column in columns if column not in CASE_METRICS}
    first = f"{METRICS[metric][0]}, mean of classes" if classes else METRICS[metric][0]
    groups = classes if len(classes) == 1 else ({metric: first} if metric in columns else {}) | classes
    return {name: {r.name: r.by_case(column) for r in results} for column, name in groups.items()}


def difference_chart(
    first: RunResult, others: Sequence[RunResult], metric: str, order: Sequence[str] = ()
) -> list[Chart]:
    """Return a chart with the difference of every case to the first run; none where no case has both scores.

    Args:
        first: What the others are compared with, tested on the same cases.
        others: The other runs.
        metric: A metric of ``types.CASE_METRICS``.
        order: Names of all runs of the page, which have the same marks in each chart.
    """
    reference, groups = by_class([first], metric), by_class(others, metric)
    differences = {
        group: {
            name: {case: value - reference[group][first.name].get(case, math.nan) for case, value in cases.items()}
            for name, cases in runs.items()
        }
        for group, runs in groups.items()
        if group in reference
    }
    if not any(math.isfinite(v) for runs in differences.values() for cases in runs.values() for v in cases.values()):
        return []
    name = METRICS[metric][0]
    better = "right" if CASE_METRICS[metric] else "left"
    caption = (
        f"{name} of each test case minus that of {first.name}; bars are means. Cases at the {better} of 0 are better "
        f"than with {first.name}."
    )
    title = f"Difference of {name} to {first.name}"
    return [(dot_chart(differences, f"difference of {name}", title, order), caption)]


def size_chart(results: Sequence[RunResult], order: Sequence[str] = ()) -> Chart:
    """Return mean Dice against the number of parameters.

    Args:
        results: Runs with a finite Dice and parameters, at least one.
        order: Names of all runs of the page, which have the same marks in each chart.
    """
    points = [Point(r.parameters, r.mean("dice"), r.name, r.spread("dice")) for r in results]
    return (
        scatter_chart(points, "parameters (log scale)", "test Dice", "Test Dice against parameters", order),
        "Mean test Dice against the number of parameters; bars are standard deviations over the cases.",
    )
