"""Compare runs: test scores with paired statistics, parameters and step time, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_pocket.storage import check_writable

if TYPE_CHECKING:
    from lightning_pocket.reports.collect import RunResult
    from lightning_pocket.reports.comparison import Comparison, Criteria


def compare(  # noqa: PLR0913 (one parameter per option of the command line)
    runs: list[str],
    output: str | None = None,
    table: str | None = None,
    metric: str | None = None,
    per_class: bool = False,
    common: bool = False,
    margin: float = 0.01,
    margin_mm: float | None = None,
    resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> None:
    """Print one row per run, and how the scores of the same cases differ from those of the first.

    Args:
        runs: Folders of runs or of cross-validations; the first is what the others are compared with.
        output: HTML file to write too: a page with charts, pictures and how each run was made.
        table: File to write the tables to: .csv, .md, .tex or .txt.
        metric: Metrics to compare, separated by commas, such as dice,hd95_mm; all by default.
        per_class: Compare each class too, not only the mean over the classes.
        common: Compare the cases that all runs share where they were not tested on the same ones.
        margin: Difference of Dice, surface Dice, AUC or accuracy that would not matter, for the verdict "no worse".
        margin_mm: The same for distances in mm; without it there is no verdict on them.
        resamples: Resamples of the bootstrap intervals.
        confidence: Share of the resampled means in an interval.
        seed: Draws the resamples.

    Raises:
        PocketError: If a folder holds no run, the cases differ, or an option is wrong.
    """
    from lightning_pocket.reports.collect import read_runs
    from lightning_pocket.reports.comparison import Criteria, compare_runs, on_same_cases
    from lightning_pocket.reports.statistics import Bootstrap

    _check_files(output, table)
    bootstrap = Bootstrap(resamples, confidence, seed)
    wanted = tuple(name.strip() for name in (metric or "").split(",") if name.strip())
    criteria = Criteria(wanted, per_class, common, margin, margin_mm, bootstrap)
    results, left_out = on_same_cases(read_runs([Path(run) for run in runs]), common)
    comparisons = compare_runs(results, criteria)
    _print(results, comparisons, criteria, left_out)
    if table is not None:
        _write_table(Path(table), results, comparisons, criteria)
        print(f"table: {table}")
    if output is not None:
        _write_page(Path(output), results, comparisons, criteria, _command(runs, output, criteria))
        print(f"page: {output}")


def _check_files(output: str | None, table: str | None) -> None:
    """Refuse files that cannot be written before anything is computed."""
    if output is not None:
        check_writable("--output", Path(output), "comparison.html")
    if table is not None:
        from lightning_pocket.reports.table_files import check_table_path

        check_table_path("--table", Path(table))


def _print(results: Sequence[RunResult], comparisons: Sequence[Comparison], criteria: Criteria, left_out: str) -> None:
    from lightning_pocket.reports.statistics_tables import statistics_table
    from lightning_pocket.reports.tables import print_table
    from lightning_pocket.reports.verdict import caveats, verdicts

    metrics = _metrics(results, criteria.metrics)
    header = ["run", "parameters", "of first", "step ms", *(f"test/{metric}" for metric in metrics)]
    print_table(header, [_row(result, results[0], metrics) for result in results])
    if comparisons:
        table = statistics_table(comparisons, criteria.bootstrap.confidence)
        print()
        print_table(table.header, table.rows, title=f"{table.title}:")
    lines = [left_out, *caveats(results), *verdicts(comparisons, criteria.bootstrap.confidence)]
    if any(lines):
        print("", *filter(None, lines), sep="\n")


def _metrics(results: Sequence[RunResult], wanted: Sequence[str]) -> list[str]:
    """Return the scores to show: what is asked for, or the means over the classes and the Dice of each class."""
    from lightning_pocket.reports.collect import metric_of
    from lightning_pocket.types import CASE_METRICS

    columns = list(dict.fromkeys(column for result in results for column in result.scores))
    shown = [c for c in columns if c in wanted or c in CASE_METRICS or metric_of(c) == "dice"]
    shown += [name for name in ("auc", "accuracy") if any(result.classified for result in results)]
    return [name for name in shown if not wanted or name in wanted or metric_of(name) in wanted]


def _row(result: RunResult, first: RunResult, metrics: list[str]) -> list[str]:
    share = f"{result.parameters / first.parameters:.1%}" if first.parameters else ""
    step = "" if result.step_ms is None else f"{result.step_ms:.1f}"
    scores = [_score(result, metric) for metric in metrics]
    return [result.name, f"{result.parameters:,}", share, step, *scores]


def _score(result: RunResult, metric: str) -> str:
    """Return mean ± standard deviation (median) over the cases, or the score of all images of a classification."""
    if metric in result.scores:
        if not result.finite(metric):
            return "no finite score"
        return f"{result.show(metric, '.4f')} ({result.median(metric):.4f})"
    return f"{result.classified.scores[metric]:.4f}" if result.classified else "not tested"


def _write_table(
    path: Path, results: Sequence[RunResult], comparisons: Sequence[Comparison], criteria: Criteria
) -> None:
    from lightning_pocket.reports.statistics_tables import RECORD_COLUMNS, records, score_table, statistics_table
    from lightning_pocket.reports.table_files import write_tables
    from lightning_pocket.storage import write_csv

    if path.suffix.lower() == ".csv":
        write_csv(path, RECORD_COLUMNS, records(results, comparisons))
        return
    names = " and ".join(result.name for result in results)
    tables = [score_table(results, comparisons, f"Test scores of {names}")]
    if comparisons:
        tables.append(statistics_table(comparisons, criteria.bootstrap.confidence))
    write_tables(path, tables)


def _write_page(
    path: Path, results: Sequence[RunResult], comparisons: Sequence[Comparison], criteria: Criteria, command: str
) -> None:
    from lightning_pocket.reports.comparison_page import write_comparison

    names = [result.name for result in results]
    title = f"{' and '.join(names)} compared" if len(names) < 4 else f"{len(names)} runs compared"
    recorded = [str(result.manifest["command"]) for result in results if result.manifest.get("command")]
    write_comparison(path, [result.path for result in results], title, [], [*recorded, command], criteria, comparisons)


def _command(runs: Sequence[str], output: str, criteria: Criteria) -> str:
    """Return the command that writes the page again, with the options that are not the usual ones."""
    given = asdict(criteria)
    options = given | given.pop("bootstrap") | {"metrics": ",".join(criteria.metrics)}
    usual = asdict(type(criteria)()) | asdict(type(criteria.bootstrap)()) | {"metrics": ""}
    names = {"metrics": "metric"}
    changed = [f"--{names.get(key, key)}={value}" for key, value in options.items() if value != usual[key]]
    return shlex.join(["pocket", "compare", *runs, *changed, f"--output={output}"])
