"""What a table of experiments comes to: ours beside published, as text, CSV, Markdown, LaTeX and a page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import RunResult
from lightning_pocket.reports.comparison import Comparison, Criteria, compare_pairs, on_same_cases
from lightning_pocket.reports.page import Page
from lightning_pocket.reports.run_parts import add_statistics
from lightning_pocket.reports.seeds import SeededRuns
from lightning_pocket.reports.statistics_tables import metric_name, scores_of, show_p, show_scores, statistics_table
from lightning_pocket.reports.table_files import Table, write_tables
from lightning_pocket.reports.tables import print_table
from lightning_pocket.reports.verdict import verdicts
from lightning_pocket.storage import write_csv

from .table import PARAMETERS, ExperimentTable, Row
from .table_charts import Chart, table_charts, write_charts

_COLUMNS = (
    "row", "task", "label", "state", "parameters", "published_params_M", "metric", "cases", "mean", "std", "median",
    "seeds", "seed_std", "seed_means", "published", "difference_to_published", "compared_with", "difference", "low",
    "high", "p", "p_holm", "effect", "non_inferior", "published_p",
)  # fmt: skip
#: Columns of the table of a metric.
_HEADER = (
    "task", "row", "parameters (M)", "published (M)", "cases", "ours", "published", "difference", "p (Holm)",
    "published p",
)  # fmt: skip
_OVER_CASES = "Mean ± standard deviation (median) over the cases."
_OVER_SEEDS = (
    "Mean over the cases of each run, then mean ± standard deviation over the runs, which differ in their seed. "
    "Differences between rows pair the cases, each with its mean over the seeds."
)


@dataclass(frozen=True)
class TableReport:
    """A table of experiments and what its rows came to.

    Args:
        table: The table.
        results: Runs of each row that has some, by its name.
        states: Why a row has none, by its name.
        commands: Commands of all rows.
        criteria: How rows are compared with one another.
    """

    table: ExperimentTable
    results: Mapping[str, SeededRuns]
    states: Mapping[str, str]
    commands: Sequence[Sequence[str]] = ()
    criteria: Criteria = field(default_factory=Criteria)

    @cached_property
    def joined(self) -> dict[str, RunResult]:
        """One result for each row that has some: scores of cases are means over its seeds."""
        if self.table.seeds:
            return {name: runs.joined() for name, runs in self.results.items()}
        return {name: replace(runs.runs[0], name=name) for name, runs in self.results.items()}

    def compare(self) -> tuple[list[Comparison], list[str]]:
        """Compare rows with those that they name.

        Returns:
            The comparisons, p values adjusted for all of them, and why some rows were not compared.
        """
        pairs, problems = [], []
        for row in self.table.rows:
            if row.name in self.joined and row.compare_to in self.joined:
                named = [self.joined[name] for name in (row.compare_to, row.name)]
                try:
                    (first, second), _ = on_same_cases(named)
                except PocketError as error:
                    problems.append(str(error))
                    continue
                pairs.append((first, second))
        compared = [result for pair in pairs for result in pair]
        held = {metric for result in compared for metric in _compared_by(result)}
        wanted = tuple(metric for metric in self.table.metrics if metric in held)
        return compare_pairs(pairs, replace(self.criteria, metrics=wanted)) if wanted else [], problems

    def tables(self, comparisons: Sequence[Comparison]) -> list[Table]:
        """Return one table for each metric that some row has, ours or published.

        Args:
            comparisons: What :meth:`compare` returned.
        """
        tests = {(c.name, c.metric): c for c in comparisons}
        return [
            Table(
                metric_name(metric),
                list(_HEADER),
                [self._line(row, metric, tests.get((row.name, metric))) for row in self.table.rows],
            ).filled()
            for metric in self._metrics()
        ]

    def write(self, folder: Path) -> None:
        """Print the tables, and write ``table.csv``, ``table.md``, ``table.tex``, ``index.html`` and charts.

        Args:
            folder: Where the files go.
        """
        comparisons, problems = self.compare()
        tables = self.tables(comparisons)
        confidence = self.criteria.bootstrap.confidence
        for table in tables:
            print_table(table.header, table.rows, title=f"\n{table.title}")
        if comparisons:
            tables.append(statistics_table(comparisons, confidence))
            print_table(tables[-1].header, tables[-1].rows, title=f"\n{tables[-1].title}")
        for problem in problems:
            print(f"not compared: {problem}")  # noqa: T201 (beside the tables)
        for ending in (".md", ".tex"):
            write_tables(folder / f"table{ending}", tables)
        write_csv(folder / "table.csv", _COLUMNS, self._records(comparisons))
        write_charts(folder, self.charts)
        self._write_page(folder / "index.html", comparisons, problems)

    @cached_property
    def charts(self) -> dict[str, Chart]:
        """Charts of all metrics, by the name of their files."""
        return table_charts(self.table, self.results, self._metrics())

    def _runs(self) -> list[RunResult]:
        return [run for runs in self.results.values() for run in runs.runs]

    def _metrics(self) -> list[str]:
        """Return the metrics of the table that any row has."""
        found = {metric for result in self._runs() for metric in (*result.scores, *scores_of(result))}
        found |= {metric for row in self.table.rows for metric in self.table.metrics if metric in row.published}
        return [metric for metric in self.table.metrics if metric in found] or list(self.table.metrics[:1])

    def _line(self, row: Row, metric: str, comparison: Comparison | None) -> list[str]:
        result = self.joined.get(row.name)
        published, mean = row.mean(metric), self._mean(row, metric)
        both = published is not None and mean is not None
        return [
            row.task,
            row.label or row.name,
            "" if result is None else f"{result.parameters / 1e6:.3g}",
            str(row.published.get(PARAMETERS, "")),
            "" if result is None else str(len(result.subjects)),
            self._ours(row, metric),
            row.score(metric),
            f"{mean - published:+.3f}" if both else "",  # type: ignore[operator]
            "" if comparison is None else show_p(comparison.p_holm),
            self._published_p(row, metric),
        ]

    def _ours(self, row: Row, metric: str) -> str:
        if row.name not in self.results:
            return self._state(row)
        if self.table.seeds:
            return self.results[row.name].show(metric)
        result = self.joined[row.name]
        return show_scores(result, scores_of(result), metric)

    def _mean(self, row: Row, metric: str) -> float | None:
        runs = self.results.get(row.name)
        return runs.mean(metric) if runs else None

    def _state(self, row: Row) -> str:
        return self.states.get(row.name, "not run")

    def _published_p(self, row: Row, metric: str) -> str:
        """Return the published p value of a pair, at the row that names the other; papers print it at either."""
        if row.compare_to:
            return row.p(metric) or self.table.row(row.compare_to).p(metric)
        return "" if any(other.compare_to == row.name for other in self.table.rows) else row.p(metric)

    def _records(self, comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
        tests = {(c.name, c.metric): c for c in comparisons}
        return [
            self._record(row, metric, tests.get((row.name, metric)))
            for row in self.table.rows
            for metric in self._metrics()
        ]

    def _record(self, row: Row, metric: str, comparison: Comparison | None) -> dict[str, Any]:
        result = self.joined.get(row.name)
        record: dict[str, Any] = {
            "row": row.name,
            "task": row.task,
            "label": row.label or row.name,
            "state": self._state(row) if result is None else "done",
            "published_params_M": row.published.get(PARAMETERS, ""),
            "metric": metric,
            "published": row.score(metric),
            "published_p": self._published_p(row, metric),
        }
        mean, published = self._mean(row, metric), row.mean(metric)
        if result is not None:
            record |= {"parameters": result.parameters, "cases": len(result.subjects), "mean": mean}
            if metric in result.scores:
                record |= {"std": result.spread(metric), "median": result.median(metric)}
            if self.table.seeds:
                record |= _over_seeds(self.results[row.name], metric)
        if mean is not None and published is not None:
            record["difference_to_published"] = mean - published
        return record | _differences(comparison)

    def _write_page(self, path: Path, comparisons: Sequence[Comparison], problems: Sequence[str]) -> None:
        page = Page(self.table.title)
        for sentence in verdicts(comparisons, self.criteria.bootstrap.confidence):
            page.paragraph(sentence, "lead")
        for note in (*self.table.notes, *problems):
            page.paragraph(note, "note")
        for table in self.tables(comparisons):
            page.section(table.title)
            source = f" Published: {self.table.source}." if self.table.source else ""
            caption = f"{_OVER_SEEDS if self.table.seeds else _OVER_CASES}{source}"
            page.table(table.header, table.unbroken().rows, caption)
        if self.charts:
            page.section("Runs")
            page.charts(list(self.charts.values()))
        add_statistics(page, comparisons, self.criteria)
        if self.commands:
            page.section("How it was made")
            page.code("\n".join(shlex.join(["pocket", *command]) for command in self.commands))
        page.write(path)


def _compared_by(result: RunResult) -> list[str]:
    """Return the metrics that have one score for each case, or a test of their own."""
    return [*result.scores, *(result.classified.scores if result.classified is not None else ())]


def _over_seeds(runs: SeededRuns, metric: str) -> dict[str, Any]:
    means = " ".join(str(mean) for mean in runs.means(metric))
    return {"seeds": len(runs.runs), "seed_std": runs.spread(metric), "seed_means": means}


def _differences(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {}
    pair = comparison.pair
    return {
        "compared_with": comparison.reference,
        "difference": pair.difference,
        "low": pair.low,
        "high": pair.high,
        "p": pair.p,
        "p_holm": comparison.p_holm,
        "effect": pair.effect,
        "non_inferior": {None: "", True: "yes", False: "no"}[comparison.non_inferior],
    }
