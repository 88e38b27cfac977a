"""One HTML page that compares runs, made of their folders alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from .classification_page import add_classification
from .collect import RunResult, read_runs
from .comparison import Comparison, Criteria, compare_runs, on_same_cases
from .comparison_tables import direction, origin_rows, result_rows
from .page import Page
from .pictures import picture_name
from .run_charts import case_charts, curve_charts, size_chart
from .statistics_tables import explain, metric_name, note_of, statistics_table
from .verdict import caveats, sentences, verdicts

#: Series of ``metrics.csv`` that are drawn, and what their axis is called.
_CURVES = {
    "train/loss": "training loss",
    "val/dice": "validation Dice",
    "val/auc": "validation AUC",
    "val/accuracy": "validation accuracy",
}


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
    _add_table(page, results)
    add_statistics(page, comparisons, criteria)
    _add_charts(page, results)
    add_classification(page, results)
    _add_pictures(page, results)
    _add_origin(page, results, commands)
    page.write(path)


def _add_table(page: Page, results: Sequence[RunResult]) -> None:
    page.section("Results")
    cases = sorted({len(result.subjects) for result in results if result.subjects})
    counts = " or ".join(map(str, cases))
    means = "" if any(result.classified for result in results) else "are means ± standard deviations "
    caption = f"Test scores {means}over {counts} cases; {direction(results)}"
    page.table(
        ["", *(result.name for result in results)],
        result_rows(results),
        caption if cases else "No run has been tested.",
    )


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


def _add_charts(page: Page, results: Sequence[RunResult]) -> None:
    curves = curve_charts(results, _CURVES)
    if curves:
        page.section("Learning curves")
        page.charts(curves)
    tested = [result for result in results if "dice" in result.scores and result.finite("dice")]
    if not tested:
        return
    page.section("Accuracy")
    page.charts([*case_charts(tested, "dice"), size_chart(tested)])


def _add_pictures(page: Page, results: Sequence[RunResult]) -> None:
    drawn = [result for result in results if (result.path / "test" / "pictures").is_dir()]
    if not drawn:
        return
    cases = _telling_cases(drawn[0])
    page.section("Cases")
    for subject, why in cases.items():
        page.subsection(f"{subject}: {why} case of {drawn[0].name}")
        pictures = []
        for result in drawn:
            file = result.path / "test" / "pictures" / picture_name(subject)
            if file.is_file():
                dice = result.by_case("dice").get(subject)
                scored = "" if dice is None else f", Dice {dice:.3f}"
                alt = f"Image, ground truth and prediction of {result.name} for {subject}{scored}"
                pictures.append((file.read_bytes(), alt, f"{result.name}{scored}."))
        page.pictures(pictures)


def _telling_cases(result: RunResult) -> dict[str, str]:
    """Return the worst, median and best case by Dice among those with a picture, and what each is."""
    folder = result.path / "test" / "pictures"
    scores = result.by_case("dice")
    finite = [subject for subject, score in scores.items() if math.isfinite(score)]
    drawn = [subject for subject in finite if (folder / picture_name(subject)).is_file()]
    ranked = sorted(drawn, key=lambda subject: scores[subject])
    chosen: dict[str, str] = {}
    if ranked:
        for index, why in ((0, "worst"), (len(ranked) // 2, "median"), (-1, "best")):
            chosen.setdefault(ranked[index], why)
    return chosen


def _add_origin(page: Page, results: Sequence[RunResult], commands: Sequence[str]) -> None:
    page.section("How it was made")
    recorded = [str(result.manifest["command"]) for result in results if result.manifest.get("command")]
    lines = list(commands) or recorded
    if lines:
        page.code("\n".join(lines))
    page.table(["", *(result.name for result in results)], origin_rows(results), "What each run recorded.")
    for result in results:
        config = result.path / "config.yaml"
        if config.is_file():
            page.details(f"Every setting of {result.name}", config.read_text(encoding="utf-8"))
