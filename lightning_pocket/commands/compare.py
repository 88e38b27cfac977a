"""Compare runs: test Dice, parameters and step time, side by side."""

from __future__ import annotations

from pathlib import Path

from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.reports.tables import print_table


def compare(runs: list[str]) -> None:
    """Print one row per run, and how each compares with the first.

    Args:
        runs: Run folders; the first is what the others are compared with.

    Raises:
        PocketError: If a folder holds no run.
    """
    results = [read_run(Path(run)) for run in runs]
    metrics = list(dict.fromkeys(metric for result in results for metric in result.scores))
    columns = ["run", "parameters", "of first", "step ms", *(f"test/{metric}" for metric in metrics)]
    print_table(columns, [_row(result, results[0], metrics) for result in results])


def _row(result: RunResult, first: RunResult, metrics: list[str]) -> list[str]:
    scores = [
        f"{result.mean(metric):.4f} ± {result.spread(metric):.4f}" if metric in result.scores else "not tested"
        for metric in metrics
    ]
    step = "" if result.step_ms is None else f"{result.step_ms:.1f}"
    return [result.name, f"{result.parameters:,}", f"{result.parameters / first.parameters:.1%}", step, *scores]
