"""The shrunk network of a run, beside its folder, and what it came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_pocket.reports.collect import RunResult, read_run
from lightning_pocket.reports.shrinking import RECORD, read_shrinking
from lightning_pocket.reports.statistics_tables import scores_of
from lightning_pocket.storage import read_json, sha256
from lightning_pocket.studies.table import METRICS

PREFIX = "shrunk/"
#: Costs of a shrunk network: weights, multiply-accumulates by equation (10) and as they are executed, and the time of
#: one image as a share of what the network took before, both measured in one run.
COSTS = ("parameters", "macs_formula", "macs", "time_ratio")
#: Every metric of a shrunk network.
SHRUNK = (*(f"{PREFIX}{name}" for name in COSTS), *(f"{PREFIX}{name}" for name in METRICS))


def shrunk_run(run: Path) -> Path:
    """Return where the shrunk network of a run is, a run itself."""
    return run.with_name(f"{run.name}.shrunk")


def is_shrunk(made: Path, checkpoint: Path) -> bool:
    """Whether a folder holds what is left of a checkpoint as it is now.

    Args:
        made: That of the shrunk network.
        checkpoint: Weights of the network before.
    """
    if not ((made / RECORD).is_file() and checkpoint.is_file()):
        return False
    origin: Any = read_json(made / RECORD).get("shrunk_from", {}).get("sha256")
    return bool(origin == sha256(checkpoint))


def shrunk_value(run: Path, metric: str) -> float | None:
    """Return a metric of the shrunk network of a run; None where there is none.

    Args:
        run: Folder of the run before.
        metric: One of :data:`SHRUNK`.
    """
    made, name = shrunk_run(run), metric.removeprefix(PREFIX)
    if not (made / RECORD).is_file():
        return None
    if name in COSTS:
        return read_shrinking(made).costs[name]
    return score_of(read_run(made), name)


def score_of(result: RunResult, metric: str) -> float | None:
    """Return a test score of a run: the mean over its cases, or that of all images of a classification."""
    return result.mean(metric) if metric in result.scores else scores_of(result).get(metric)
