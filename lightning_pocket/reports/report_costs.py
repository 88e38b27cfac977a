"""The part of a report that is about time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from .collect import RunResult
from .comparison_tables import minutes
from .page import NOT_KNOWN, Page
from .run_charts import COSTS, MOST_DRAWN, curve_charts, is_crossval
from .tested import read_tested


def add_costs(page: Page, results: Sequence[RunResult]) -> None:
    """Add time and memory: the figures of each run, and their series while it trained."""
    rows = _cost_rows(results)
    if not rows:
        return
    page.section("Memory and time")
    caption = "Steps are those of the last attempt, without its first ones; memory is the peak of the whole training."
    if any(map(is_crossval, results)):
        caption += (
            " Of a cross-validation: the median over the folds of the steps, the sum of the training, the highest of "
            "the memory, and the mean of the rest."
        )
    page.table(["", *(result.name for result in results)], rows, caption)
    if len(results) <= MOST_DRAWN:
        charts = curve_charts([replace(result, curves=result.costs) for result in results], COSTS)
        if charts:
            page.charts(charts)


def _cost_rows(results: Sequence[RunResult]) -> list[list[str]]:
    """Return rows of cells, without those that no run has."""

    def last(result: RunResult, series: str, form: str) -> str:
        curve = result.costs.get(series)
        return f"{curve[-1][1]:{form}}" if curve else NOT_KNOWN

    def seconds(result: RunResult) -> str:
        found = read_tested(result.path).get("seconds")
        return NOT_KNOWN if found is None else f"{float(found):.1f}"

    rows = [
        ["median step (ms)", *("n/a" if r.step_ms is None else f"{r.step_ms:.1f}" for r in results)],
        ["95th percentile of steps (ms)", *(last(r, "profile/step_p95_ms", ".1f") for r in results)],
        ["share of time waiting for data", *(last(r, "profile/data_wait_share", ".1%") for r in results)],
        ["training (min)", *(NOT_KNOWN if r.train_s is None else minutes(r.train_s) for r in results)],
        ["testing (s)", *(seconds(r) for r in results)],
    ]
    for kind in dict.fromkeys(kind for result in results for kind in result.peak_mib):
        cells = (f"{r.peak_mib[kind]:,.0f}" if kind in r.peak_mib else NOT_KNOWN for r in results)
        rows.append([f"peak {kind} memory (MiB)", *cells])
    return [row for row in rows if any(cell != NOT_KNOWN for cell in row[1:])]
