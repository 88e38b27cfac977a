"""Compare runs: test scores, parameters and step time, side by side."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import RunResult, metric_of, read_runs
from lightning_pocket.reports.tables import print_table
from lightning_pocket.types import CASE_METRICS


def compare(runs: list[str], output: str | None = None) -> None:
    """Print one row per run, and how each compares with the first.

    Args:
        runs: Run folders; the first is what the others are compared with.
        output: HTML file to write too: a page with charts, pictures and how each run was made.

    Raises:
        PocketError: If a folder holds no run, or the output is a folder.
    """
    results = read_runs([Path(run) for run in runs])
    if output is not None and Path(output).is_dir():
        raise PocketError(f"--output {output}: is a folder. Name a file, such as {Path(output) / 'comparison.html'}.")
    columns = list(dict.fromkeys(column for result in results for column in result.scores))
    metrics = [name for name in columns if name in CASE_METRICS or metric_of(name) == "dice"]
    header = ["run", "parameters", "of first", "step ms", *(f"test/{metric}" for metric in metrics)]
    print_table(header, [_row(result, results[0], metrics) for result in results])
    if output is not None:
        from lightning_pocket.reports.comparison_page import write_comparison

        names = [result.name for result in results]
        title = f"{' and '.join(names)} compared" if len(names) < 4 else f"{len(names)} runs compared"
        command = shlex.join(["pocket", "compare", *runs, f"--output={output}"])
        recorded = [str(result.manifest["command"]) for result in results if result.manifest.get("command")]
        write_comparison(Path(output), [Path(run) for run in runs], title, [], [*recorded, command])
        print(f"page: {output}")


def _row(result: RunResult, first: RunResult, metrics: list[str]) -> list[str]:
    scores = [
        f"{result.mean(metric):.4f} ± {result.spread(metric):.4f}" if metric in result.scores else "not tested"
        for metric in metrics
    ]
    step = "" if result.step_ms is None else f"{result.step_ms:.1f}"
    return [result.name, f"{result.parameters:,}", f"{result.parameters / first.parameters:.1%}", step, *scores]
