"""Comparisons as tables for readers: numbers with their digits, and the style of PocketNet's Tables I and II."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .collect import RunResult, group_of, metric_of
from .comparison import Comparison, Criteria, columns_of
from .comparison_tables import METRICS
from .statistics import FEWEST_JUDGED
from .table_files import Table

_NO_TEST = ""
#: Shown for a mean without any case that counts.
NO_SCORE = "no finite score"
#: Columns of the CSV file, one row per run and metric.
RECORD_COLUMNS = (
    "run", "metric", "cases", "mean", "std", "median", "reference", "difference", "low", "high", "p", "p_holm",
    "effect", "margin", "non_inferior", "better", "equal", "worse", "left_out", "note",
)  # fmt: skip


def metric_name(column: str) -> str:
    """Return what readers call a column of scores, such as ``HD95 (mm), liver``."""
    metric = metric_of(column) or column
    group = group_of(column)
    name = METRICS.get(metric, (metric, ""))[0]
    return f"{name}, {group}" if group else name


def show_p(p: float) -> str:
    """Return a p value with three decimals, or two digits where it is small; empty where there is none."""
    return _NO_TEST if math.isnan(p) else f"{p:.3f}" if p >= 0.001 else f"{p:.1e}"


def show_interval(comparison: Comparison) -> str:
    """Return the interval of the difference, such as ``-0.004 to 0.012``; empty where there is none."""
    if math.isnan(comparison.pair.low):
        return _NO_TEST
    form = _difference_format(comparison.metric)
    return f"{comparison.pair.low:{form}} to {comparison.pair.high:{form}}"


def summary(values: Sequence[float], metric: str) -> str:
    """Return mean ± standard deviation (median), as the paper prints scores.

    Args:
        values: Score of each case; those that are not finite do not count.
        metric: Column that they are from; it decides the digits.
    """
    form = METRICS.get(metric_of(metric) or metric, ("", ".3g"))[1]
    result = RunResult("", 0, None, {metric: list(values)})
    if not result.finite(metric):
        return NO_SCORE
    return f"{result.show(metric, form)} ({result.median(metric):{form}})"


def statistics_table(comparisons: Sequence[Comparison], confidence: float = 0.95, *, notes: bool = True) -> Table:
    """Return one row for each run and metric: difference, interval, p values, effect, verdict and counts.

    Args:
        comparisons: What was compared.
        confidence: Share of the resampled means in the intervals.
        notes: Whether what a reader must know of a row stands in a column.
    """
    references = dict.fromkeys(comparison.reference for comparison in comparisons)
    one = len(references) == 1
    header = [
        "run", *([] if one else ["compared with"]), "metric", "difference", f"{100 * confidence:g} % interval", "p",
        "p (Holm)", "effect", "no worse within", "better / equal / worse", "note",
    ]  # fmt: skip
    rows = []
    for comparison in comparisons:
        pair = comparison.pair
        rows.append(
            [
                comparison.name,
                *([] if one else [comparison.reference]),
                metric_name(comparison.metric),
                _NO_TEST if math.isnan(pair.low) else f"{pair.difference:+{_difference_format(comparison.metric)}}",
                show_interval(comparison),
                show_p(pair.p),
                show_p(comparison.p_holm),
                "" if math.isnan(pair.effect) else f"{pair.effect:+.2f}",
                _verdict(comparison),
                _counts(comparison),
                note_of(comparison) if notes else "",
            ]
        )
    cases = sorted({comparison.pair.cases for comparison in comparisons})
    counted = " or ".join(map(str, cases))
    against = f"Differences to {next(iter(references))}" if one else "Differences"
    title = f"{against}, paired over {counted} {'case' if cases == [1] else 'cases'}"
    return Table(title, header, rows).filled()


def note_of(comparison: Comparison) -> str:
    """Return what a reader must know of a comparison, empty where nothing stands against it."""
    pair = comparison.pair
    doubt = f"no verdict: {comparison.doubt}" if comparison.doubt else ""
    left_out = f"{pair.left_out} left out: a score is not a finite number" if pair.left_out else ""
    return "; ".join(filter(None, [pair.note, doubt, left_out]))


def explain(criteria: Criteria) -> str:
    """Return how the numbers of a table of statistics were found, in sentences.

    Args:
        criteria: How runs were compared.
    """
    bootstrap = criteria.bootstrap
    return (
        "p: two-sided Wilcoxon signed-rank test, of accuracies McNemar's exact test; Holm's adjustment covers all "
        "tests of the table. Effect: matched-pairs rank-biserial correlation, of the sign of the difference. "
        f"Interval: percentile bootstrap of the mean difference, {bootstrap.resamples:,} resamples, seed "
        f"{bootstrap.seed}; of accuracies Tango's score interval. The AUC has an interval and no test. No worse: yes "
        "where the interval stays within the margin on the bad side, no where all of it lies beyond, else not shown; "
        f"no verdict from fewer than {FEWEST_JUDGED} cases or an interval of no width."
    )


def score_table(results: Sequence[RunResult], comparisons: Sequence[Comparison], title: str) -> Table:
    """Return one row for each run, in the style of PocketNet's Table I: parameters, scores and p values.

    Args:
        results: The runs.
        comparisons: What was compared; its metrics are the columns. Without any, the means over the classes are.
        title: Line above the table.
    """
    metrics = metrics_of(results, comparisons)
    tests = {(c.name, c.metric): c.p_holm for c in comparisons}
    header = ["run", "parameters (M)"]
    for metric in metrics:
        header += [metric_name(metric), "p (Holm)"] if tests else [metric_name(metric)]
    rows = []
    for result in results:
        row = [result.name, f"{result.parameters / 1e6:.3g}"]
        scores = scores_of(result)
        for metric in metrics:
            row.append(show_scores(result, scores, metric))
            if tests:
                row.append(show_p(tests.get((result.name, metric), math.nan)))
        rows.append(row)
    return Table(title, header, rows)


def records(results: Sequence[RunResult], comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return one row for each run and metric, with every digit, for ``RECORD_COLUMNS``.

    Args:
        results: The runs.
        comparisons: What was compared.
    """
    by_key = {(c.name, c.metric): c for c in comparisons}
    metrics = metrics_of(results, comparisons)
    rows = []
    for result in results:
        scores = scores_of(result)
        for metric in metrics:
            row: dict[str, Any] = {"run": result.name, "metric": metric, "cases": len(result.subjects)}
            if metric in result.scores:
                values = (result.mean(metric), result.spread(metric), result.median(metric))
                count = len(result.finite(metric))
                row |= {"cases": count} | (dict(zip(("mean", "std", "median"), values, strict=True)) if count else {})
            elif metric in scores:
                row["mean"] = scores[metric]
            row |= _record(by_key.get((result.name, metric)))
            rows.append(row)
    return rows


def metrics_of(results: Sequence[RunResult], comparisons: Sequence[Comparison]) -> list[str]:
    """Return what a table of scores shows: what was compared, or the means over the classes where nothing was.

    Args:
        results: The runs.
        comparisons: What was compared.
    """
    compared = list(dict.fromkeys(comparison.metric for comparison in comparisons))
    classified = [metric for metric in ("auc", "accuracy") if any(result.classified for result in results)]
    return compared or columns_of(results, False) or classified


def scores_of(result: RunResult) -> dict[str, float]:
    """Return the scores of all images together: those of a classification, or ``miou`` and the like."""
    return (result.classified.scores if result.classified is not None else {}) | result.overall


def show_scores(result: RunResult, scores: Mapping[str, float], metric: str) -> str:
    """Return a score of a run as readers see it.

    Args:
        result: The run.
        scores: Its scores of all images together, as :func:`scores_of` returns them.
        metric: Column of its scores of cases, or a key of ``scores``.
    """
    if metric in result.scores:
        return summary(result.scores[metric], metric)
    return f"{scores[metric]:{METRICS.get(metric, ('', '.3f'))[1]}}" if metric in scores else "not tested"


def _record(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {}
    pair = comparison.pair
    return {
        "reference": comparison.reference,
        "difference": _number(pair.difference),
        "low": _number(pair.low),
        "high": _number(pair.high),
        "p": _number(pair.p),
        "p_holm": _number(comparison.p_holm),
        "effect": _number(pair.effect),
        "margin": comparison.margin,
        "non_inferior": {None: "", True: "yes", False: "no"}[comparison.non_inferior],
        "better": comparison.better,
        "equal": pair.equal,
        "worse": comparison.worse,
        "left_out": pair.left_out,
        "note": note_of(replace(comparison, pair=replace(pair, left_out=0))),  # which has a column of its own
    }


def _number(value: float) -> float | str:
    return "" if math.isnan(value) else value


def _difference_format(metric: str) -> str:
    return ".2f" if (metric_of(metric) or "").endswith(("_mm", "_px")) else ".4f"


def _verdict(comparison: Comparison) -> str:
    if comparison.margin is None or math.isnan(comparison.pair.low):
        return ""
    found = {None: "no verdict", True: "yes", False: "no" if comparison.is_worse else "not shown"}
    return f"{found[comparison.non_inferior]} ({comparison.margin:g})"


def _counts(comparison: Comparison) -> str:
    counts = (comparison.better, comparison.pair.equal, comparison.worse)
    return " / ".join(map(str, counts)) if any(counts) else ""  # none where all cases have one score together
