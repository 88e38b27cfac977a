"""A profile as a page: what it came to in a few sentences, charts, tables, and how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_pocket.reports.area_chart import area_chart
from lightning_pocket.reports.charts import line_chart
from lightning_pocket.reports.page import Page
from lightning_pocket.reports.table_files import Table

from .plan import Candidate
from .run import Row
from .tables import CostTables

#: Column -> how sentences and charts call it.
SUBJECTS = {
    "train_mib": "Peak training memory, predicted",
    "measured_train_mib": "Peak training memory, measured",
    "train_step_ms": "Time of a training step, measured",
    "infer_mib": "Peak inference memory, predicted",
    "infer_ms": "Time of inference, measured",
}
_UNITS = {"mib": "MiB", "ms": "ms"}
#: What stays in memory from one step to the next.
_KEPT = ("weights_mib", "optimizer_mib", "inputs_mib")


def verdicts(costs: CostTables) -> list[str]:
    """Return how much is saved, beside what was published.

    Args:
        costs: Rows of a profile.
    """
    said = []
    for column, subject in SUBJECTS.items():
        spans = [_span(low, high, title) for title, low, high in costs.ranges(column)]
        published = costs.plan.published.get(column.removeprefix("measured_"))
        beside = "" if published is None else f"; published {published[0]:g} to {published[1]:g}%"
        if spans:
            said.append(f"{subject}, saved: {', '.join(spans)}{beside}.")
    return said


def _span(low: float, high: float, title: str) -> str:
    span = f"{low:.1f}%" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}%"
    return f"{span} ({title})" if title else span


def write_page(path: Path, costs: CostTables, extra: Sequence[Table], device: str, command: str) -> None:
    """Write the page.

    Args:
        path: HTML file.
        costs: Rows of a profile.
        extra: Further tables, shown after the others.
        device: What was measured on; empty where nothing was.
        command: Command that writes the page again.
    """
    page = Page(costs.plan.title)
    for sentence in verdicts(costs):
        page.paragraph(sentence, "lead")
    for note in costs.plan.notes:
        page.paragraph(note, "note")
    for index, grid in enumerate(costs.plan.grids):
        rows = [row for row in costs.rows if row.grid == index]
        charts = [*_savings(costs, rows), *_curves(rows), *_timelines(rows)]
        if charts:
            page.section(grid.title or "Memory and time")
            page.charts(charts)
    page.section("Tables")
    source = f" Published: {costs.plan.source}." if costs.plan.source else ""
    on = f" Measured on {device}." if device else ""
    for table in (*costs.tables(), *extra):
        shown = table.unbroken()
        caption = f"{table.title}.{on if 'easured' in table.title else ''}"
        page.table(shown.header, shown.rows, caption + (source if "published" in table.header else ""))
    problems = [
        f"{row.candidate.label}, batch {row.batch}, {row.size}: {row.problem}" for row in costs.rows if row.problem
    ]
    for problem in problems:
        page.paragraph(problem, "note")
    page.section("How it was made")
    page.code(command)
    page.write(path)


def _curves(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return a chart of each number over the batch size, one for each architecture and patch."""
    charts = []
    for column, subject in SUBJECTS.items():
        for name, size in dict.fromkeys((row.candidate.name, row.size) for row in rows):
            here = [row for row in rows if (row.candidate.name, row.size) == (name, size)]
            series = _series(here, column)
            if max((len(points) for points in series.values()), default=0) < 2:
                continue
            unit = _UNITS[column.rpartition("_")[2]]
            title = f"{subject}: {name} {size}".replace(":  ", ": ")
            charts.append((line_chart(series, "batch", unit, title), f"{title}, in {unit}, over the batch size."))
    return charts


def _series(rows: Sequence[Row], column: str) -> dict[str, list[tuple[float, float]]]:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        value = row.value(column)
        if value is not None:
            series.setdefault(row.candidate.variant, []).append((row.batch, value))
    return {name: sorted(points) for name, points in series.items()}


def _savings(costs: CostTables, rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return a chart of the savings over the batch size, a curve for each network, for each patch."""
    charts = []
    candidates = dict.fromkeys(row.candidate for row in rows)
    single = len({candidate.variant for candidate in candidates}) == 2  # then the architecture tells enough
    names = {c: c.name if c.name and single else c.label for c in candidates}
    for column, subject in SUBJECTS.items():
        for size in dict.fromkeys(row.size for row in rows):
            series: dict[str, list[tuple[float, float]]] = {}
            for row in rows:
                share = costs.saved(row, column) if row.size == size else None
                if share is not None:
                    series.setdefault(names[row.candidate], []).append((row.batch, 100 * share))
            series = {name: sorted(points) for name, points in series.items()}
            if len(series) > 1 and max(map(len, series.values())) > 1:
                title = f"{subject}: saved, {size}"
                caption = f"{title}, in percent of the first variant, over the batch size."
                charts.append((line_chart(series, "batch", "% saved", title), caption))
    return charts


def _timelines(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return the memory over a training step, once for each network: with its first batch and patch."""
    first: dict[Candidate, Row] = {}
    for row in rows:
        if row.timeline:
            first.setdefault(row.candidate, row)
    return [(_timeline(row), f"Memory over a training step of {_name(row)}, as predicted.") for row in first.values()]


def _timeline(row: Row) -> str:
    kept = sum(row.value(column) or 0.0 for column in _KEPT)
    held = [mib for _, mib in row.timeline]
    bands = {
        "weights, optimizer, inputs": [min(kept, mib) for mib in held],
        "activations, gradients, workspace": [max(mib - kept, 0.0) for mib in held],
    }
    return area_chart(bands, [label for label, _ in row.timeline], "training step", "MiB", f"Memory: {_name(row)}")


def _name(row: Row) -> str:
    return f"{row.candidate.label}, batch {row.batch}, {row.size}"
