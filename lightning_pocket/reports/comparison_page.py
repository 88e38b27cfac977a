"""One HTML page that compares runs, made of their folders alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .classification_page import add_classification
from .collect import RunResult, read_runs
from .comparison import Comparison, Criteria, compare_runs, on_same_cases
from .page import Page
from .report_cases import add_pictures, has_pictures
from .run_charts import case_charts, size_chart
from .run_parts import add_curves, add_origin, add_results, add_statistics
from .verdict import caveats, sentences, verdicts


def write_comparison(
    path: Path,
    runs: list[Path],
    title: str,
    notes: list[str],
    commands: list[str],
    criteria: Criteria | None = None,
    comparisons: Sequence[Comparison] | None = None,
) -> None:
    """Write a page that compares runs: verdict, table, statistics, charts, pictures, and how it was made.

    It reads ``manifest.json``, ``metrics.csv``, ``config.yaml``, ``test/cases.csv`` and ``test/pictures`` of each run;
    of these only the manifest must be there.

    Args:
        path: The HTML file, one self-contained page.
        runs: Run folders; the first is what the others are compared with.
        title: Heading of the page.
        notes: Remarks below the verdict.
        commands: Commands that made the runs; where empty, those that the runs recorded.
        criteria: How the scores are compared; by default a mean over the classes at a time. Runs that were not tested
            on the same cases are compared by these only where they say so.
        comparisons: The comparisons by these criteria, where they are known already.

    Raises:
        PocketError: If a folder holds no run.
    """
    criteria = criteria or Criteria()
    results, left_out = read_runs(runs), ""
    comparable = len({frozenset(result.subjects) for result in results if result.subjects}) < 2
    if comparable or criteria.common:
        results, left_out = on_same_cases(results, criteria.common)
    if comparisons is None:
        comparisons = compare_runs(results, criteria) if comparable or criteria.common else []
    page = Page(title)
    for sentence in (*sentences(results), *verdicts(comparisons, criteria.bootstrap.confidence)):
        page.paragraph(sentence, "lead")
    for note in filter(None, (*notes, left_out, *caveats(results))):
        page.paragraph(note, "note")
    add_results(page, results)
    add_statistics(page, comparisons, criteria)
    add_curves(page, results)
    _add_accuracy(page, results)
    add_classification(page, results)
    _add_cases(page, results)
    add_origin(page, results, commands or [str(result.manifest.get("command") or "") for result in results])
    page.write(path)


def _add_accuracy(page: Page, results: Sequence[RunResult]) -> None:
    tested = [result for result in results if "dice" in result.scores and result.finite("dice")]
    if not tested:
        return
    order, sized = [result.name for result in results], [result for result in tested if result.parameters]
    page.section("Accuracy")
    page.charts([*case_charts(tested, "dice", order), *([size_chart(sized, order)] if sized else [])])


def _add_cases(page: Page, results: Sequence[RunResult]) -> None:
    ranked = next((result for result in results if "dice" in result.scores and has_pictures(result)), None)
    if ranked is not None:
        page.section("Cases")
        add_pictures(page, ranked, [result for result in results if result.subjects])
