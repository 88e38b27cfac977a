"""The parts that pages about runs share: results, statistics, curves, failures, and how the runs were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from .collect import RunResult
from .comparison import Comparison, Criteria
from .comparison_tables import origin_rows, result_rows, scores_caption
from .failures import Failure
from .page import NOT_KNOWN, Page
from .redaction import redact
from .run_charts import class_curve, curve_charts
from .statistics_tables import explain, metric_name, note_of, statistics_table

#: Series of ``metrics.csv`` that are drawn, and what their axis is called.
CURVES = {
    "train/loss": "training loss",
    "val/loss": "validation loss",
    "val/dice": "validation Dice",
    "val/auc": "validation AUC",
    "val/accuracy": "validation accuracy",
}


def add_results(page: Page, results: Sequence[RunResult]) -> None:
    """Add the figures of each run: size, scores, time and memory.

    Args:
        page: Where they are added.
        results: The runs.
    """
    page.section("Results")
    page.table(["", *(result.name for result in results)], result_rows(results), scores_caption(results))


def add_statistics(page: Page, comparisons: Sequence[Comparison], criteria: Criteria) -> None:
    """Add the table of differences and how it was made; nothing where nothing was compared.

    Args:
        page: Where they are added.
        comparisons: What was compared.
        criteria: How.
    """
    if not comparisons:
        return
    page.section("Statistics")
    table = statistics_table(comparisons, criteria.bootstrap.confidence, notes=False).unbroken()
    page.table(table.header, table.rows, f"{table.title}. {explain(criteria)}")
    noted: dict[tuple[str, str], list[str]] = {}
    for comparison in comparisons:
        noted.setdefault((comparison.name, note_of(comparison)), []).append(metric_name(comparison.metric))
    for (name, note), metrics in noted.items():
        if note:
            page.paragraph(f"{name}, {', '.join(metrics)}: {note}.", "note")


def add_curves(page: Page, results: Sequence[RunResult]) -> None:
    """Add learning curves, of a single run those of each class too; nothing where no run has any.

    Args:
        page: Where they are added.
        results: The runs.
    """
    charts = curve_charts(results, CURVES)
    charts += class_curve(results[0]) if len(results) == 1 else []
    if charts:
        page.section("Learning curves")
        page.charts(charts)


def add_failures(page: Page, failures: Mapping[str, Failure]) -> None:
    """Add where and why runs ended before their time.

    Args:
        page: Where they are added.
        failures: Why, by the name of the run; at least one.
    """
    page.section("Failures and warnings")
    rows = [[name, failure.where or NOT_KNOWN, failure.why] for name, failure in failures.items()]
    page.table(["run", "stopped", "why"], rows, "Trainings that ended before their time.")
    for name, failure in failures.items():
        if failure.frames:
            page.details(f"{name}: the last calls before the error", "\n".join(failure.frames))
        if failure.log:
            page.details(f"{name}: the end of its log", failure.log)


def add_origin(page: Page, results: Sequence[RunResult], commands: Sequence[str]) -> None:
    """Add commands, versions and machines, and every setting.

    Args:
        page: Where they are added.
        results: The runs.
        commands: What repeats runs and page.
    """
    page.section("How it was made")
    if any(commands):
        page.code("\n".join(filter(None, commands)))
    if not results:
        return
    caption = "What each run recorded: seed, data, machine, versions."
    page.table(["", *(result.name for result in results)], origin_rows(results), caption)
    for result in results:
        config = result.path / "config.yaml"
        if config.is_file():
            page.details(f"Every setting of {result.name}", _shown(config))


def _shown(config: Path) -> str:
    """Return the settings in a file, without secrets; as it is where it holds none, whatever it holds."""
    text = config.read_text(encoding="utf-8", errors="replace")
    try:
        settings = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    redacted = redact(settings)
    return text if redacted == settings else yaml.safe_dump(redacted, sort_keys=False, allow_unicode=True)
