"""The part of a report that is about a table of experiments, read from the files that ``pocket table`` wrote."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.types import CASE_METRICS

from .activity import is_active
from .charts import Point, scatter_chart
from .collect import RunResult, metric_of, read_run
from .comparison_tables import METRICS
from .failures import Failure, failures_of
from .page import Page
from .report_costs import add_costs
from .report_runs import commands_of
from .run_charts import MOST_DRAWN, case_charts
from .run_parts import add_curves, add_failures, add_origin
from .statistics_tables import metric_name, show_p
from .table_files import Table

Row = Mapping[str, str]


def add_experiments(page: Page, folder: Path, command: str) -> None:
    """Add verdict, one table for each metric, accuracy against size, curves, costs and failures.

    Args:
        page: Where they are added.
        folder: Output folder of ``pocket table``.
        command: The command that writes the report again.

    Raises:
        PocketError: If its ``table.csv`` is not what the command writes.
    """
    rows = _read(folder / "table.csv")
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    of_first = [row for row in rows if row["metric"] == metrics[0]]
    done = [row for row in of_first if row["state"] == "done"]
    page.paragraph(f"{len(done)} of {len(of_first)} rows have a result of ours.", "lead")
    for sentence in _verdicts(of_first):
        page.paragraph(sentence, "lead")
    found, failures = read_experiments(folder)
    runs = _labelled(found, of_first)
    failures = {name: failure for run in runs for name, failure in failures_of(run).items()} | failures
    if failures:
        add_failures(page, failures)
    for metric in metrics:
        page.section(metric_name(metric))
        table = Table("", *_cells([row for row in rows if row["metric"] == metric], metric)).filled().unbroken()
        page.table(table.header, table.rows, "Ours: mean ± standard deviation (median) over the cases; p after Holm.")
        points = _points(rows, metric)
        if len({point.x for point in points}) > 1:
            title = f"{metric_name(metric)} against parameters"
            chart = scatter_chart(points, "parameters (log scale)", metric_name(metric), title)
            page.charts([(chart, f"{title}: means of the rows over their cases.")])
    add_run_charts(page, runs)
    shown = runs[:MOST_DRAWN]
    add_origin(page, shown, [*commands_of(shown), command])


def _labelled(runs: Sequence[RunResult], rows: Sequence[Row]) -> list[RunResult]:
    """Return runs with what the table calls their rows, and their seeds where a row has several."""
    labels = {row["row"]: row.get("label") or row["row"] for row in rows}
    places = [run.name.partition("/") for run in runs]
    counts = Counter(row for row, _, _ in places)
    names = [
        f"{labels.get(row, row)}, {rest}" if counts[row] > 1 and rest else labels.get(row, row)
        for row, _, rest in places
    ]
    repeated = Counter(names)
    return [replace(run, name=name if repeated[name] == 1 else run.name) for run, name in zip(runs, names, strict=True)]


def read_experiments(folder: Path) -> tuple[list[RunResult], dict[str, Failure]]:
    """Return the runs of a table, or the trials of a study, that are there, each named by its place.

    Args:
        folder: Folder of the table or the study.

    Returns:
        The runs, and why others are not among them: damaged ones, and cross-validations of which no fold is done.
    """
    found: list[RunResult] = []
    failures: dict[str, Failure] = {}
    for root in (folder / "runs", folder / "trials"):
        for record in sorted([*root.glob("**/manifest.json"), *root.glob("**/crossval.json")]):
            run = record.parent
            if any((parent / "crossval.json").is_file() for parent in run.parents if root in parent.parents):
                continue  # a fold is part of its cross-validation
            name = run.relative_to(root).as_posix()
            try:
                found.append(replace(read_run(run), name=name))
            except PocketError as error:
                failures |= {} if is_active(run) else {name: Failure("", str(error))}
    return found, failures


def add_run_charts(page: Page, runs: Sequence[RunResult]) -> None:
    """Add curves, scores of cases and costs of the runs of a table or a study; nothing without any."""
    if not runs:
        return
    if len(runs) <= MOST_DRAWN:
        add_curves(page, runs)
        charts = case_charts([run for run in runs if "dice" in run.scores], "dice")
        if charts:
            page.section("Scores of every case")
            page.charts(charts)
    else:
        page.paragraph(
            f"Curves and cases of {len(runs)} runs cannot be told apart: report up to {MOST_DRAWN} of them.", "note"
        )
    add_costs(page, runs)


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in ("row", "state", "metric", "mean") if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PocketError(f"{path}: cannot be read ({error}). Run `pocket table` again.") from error
    if missing or not rows:
        found = f"has no column {missing[0]!r}" if missing else "is empty"
        raise PocketError(f"{path}: {found}; expected what `pocket table` writes. Run it again.")
    return rows


def _verdicts(rows: Sequence[Row]) -> list[str]:
    """Return one sentence for each row that was compared with another one."""
    labels = {row["row"]: row.get("label") or row["row"] for row in rows}
    found = []
    for row in rows:
        difference = _number(row.get("difference"))
        if difference is None:
            continue
        name, other = labels[row["row"]], labels.get(row["compared_with"], row["compared_with"])
        low, high, p = (_number(row.get(key)) for key in ("low", "high", "p_holm"))
        said = _said(row, low, high)
        numbers = [f"difference {difference:+.4f}"]
        numbers += [f"95 % interval {low:.4f} to {high:.4f}"] if low is not None and high is not None else []
        numbers += [f"p {show_p(p)} after Holm"] if p is not None else []
        found.append(f"{name} {said} {other} in {metric_name(row['metric'])}: {', '.join(numbers)}.")
    return found


def _said(row: Row, low: float | None, high: float | None) -> str:
    """Return what the interval of a difference tells, and the verdict within the margin where it tells nothing."""
    if low is not None and high is not None and (low > 0 or high < 0):
        better = (low > 0) is CASE_METRICS.get(metric_of(row["metric"]) or "", True)
        return f"scores {'better' if better else 'worse'} than"
    verdicts = {"yes": "is no worse than", "no": "is not shown to be no worse than"}
    return verdicts.get(row.get("non_inferior", ""), "is not told from")


def _cells(rows: Sequence[Row], metric: str) -> tuple[list[str], list[list[str]]]:
    header = [
        "row",
        "task",
        "parameters",
        "cases",
        "ours",
        "published",
        "to published",
        "compared with",
        "difference",
        "p (Holm)",
    ]
    cells = []
    for row in rows:
        size, p = _number(row.get("parameters")), _number(row.get("p_holm"))
        gap, difference = _number(row.get("difference_to_published")), _number(row.get("difference"))
        cells.append(
            [
                row.get("label") or row["row"],
                row.get("task", ""),
                "" if size is None else f"{size:,.0f}",
                row.get("cases", ""),
                _ours(row, metric),
                row.get("published", ""),
                "" if gap is None else f"{gap:+.3f}",
                row.get("compared_with", ""),
                "" if difference is None else f"{difference:+.4f}",
                "" if p is None else show_p(p),
            ]
        )
    return header, cells


def _ours(row: Row, metric: str) -> str:
    mean, spread, middle = (_number(row.get(key)) for key in ("mean", "std", "median"))
    if mean is None:
        return row["state"]
    form = METRICS.get(metric, ("", ".3g"))[1]
    shown = f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"
    return shown if middle is None else f"{shown} ({middle:{form}})"


def _points(rows: Sequence[Row], metric: str) -> list[Point]:
    found = []
    for row in rows:
        size, mean = _number(row.get("parameters")), _number(row.get("mean"))
        if row["metric"] == metric and size and mean is not None:
            found.append(Point(size, mean, row.get("label") or row["row"]))
    return found


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
