"""Charts of a table of experiments: the runs of each row, or scores along a setting, ours beside published."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_pocket.reports.charts import dot_chart, line_chart
from lightning_pocket.reports.seeds import SeededRuns
from lightning_pocket.reports.statistics_tables import metric_name
from lightning_pocket.reports.svg_file import write_svg

from .table import ExperimentTable, Row

#: A chart and what stands below it.
Chart = tuple[str, str]


def table_charts(table: ExperimentTable, results: Mapping[str, SeededRuns], metrics: Sequence[str]) -> dict[str, Chart]:
    """Return the charts of a table, one for each metric and data set that has results, by the name of their files.

    Args:
        table: The table. With an ``axis`` scores are drawn along that option, of the rows that have it.
        results: Runs of each row that has some, by its name.
        metrics: What is drawn.
    """
    found = {}
    for metric in metrics:
        for task in dict.fromkeys(row.task for row in table.rows):
            rows = [row for row in table.rows if row.task == task and row.name in results]
            chart = _along(table, rows, results, metric) if table.axis else _strips(rows, results, metric)
            if chart is not None:
                found["_".join(filter(None, (metric, task)))] = chart
    return found


def write_charts(folder: Path, charts: Mapping[str, Chart]) -> None:
    """Write each chart as NAME.svg."""
    for name, (chart, _) in charts.items():
        write_svg(folder / f"{name}.svg", chart)


def _along(table: ExperimentTable, rows: Sequence[Row], results: Mapping[str, SeededRuns], metric: str) -> Chart | None:
    """Return scores along the option that is the table's axis; None where no row has both."""
    places = {row.name: float(str(row.options[table.axis])) for row in rows if table.axis in row.options}
    ours, published, errors = [], [], {}
    for row in (row for row in rows if row.name in places):
        x, mean, printed = places[row.name], results[row.name].mean(metric), row.mean(metric)
        if mean is not None:
            ours.append((x, mean))
            errors[x] = results[row.name].spread(metric) or 0.0
        if printed is not None:
            published.append((x, printed))
    if not ours:
        return None
    series = {"ours": sorted(ours), **({"published": sorted(published)} if published else {})}
    name, shown = table.axis.rpartition(".")[2].replace("_", " "), metric_name(metric)
    chart = line_chart(series, name, shown, f"{shown} along {name}, {rows[0].task}", {"ours": errors}, log_x=True)
    return chart, f"{rows[0].task}: mean over the runs; bars are their standard deviation."


def _strips(rows: Sequence[Row], results: Mapping[str, SeededRuns], metric: str) -> Chart | None:
    """Return a strip for each row with a dot for each run; None where nothing was scored, or every row has one run."""
    strips = {}
    for row in rows:
        means = [value for value in results[row.name].means(metric) if math.isfinite(value)]
        if means:
            strips[row.label or row.name] = {str(place): value for place, value in enumerate(means)}
    if not strips or max(map(len, strips.values())) < 2:
        return None
    task, shown = rows[0].task, metric_name(metric)
    chart = dot_chart({task: strips}, shown, f"{shown} of each run, {task}")
    return chart, f"{task}: a dot for each run; the bar is their mean."
