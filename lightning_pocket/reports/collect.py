"""Read what runs left on disk."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json


@dataclass(frozen=True)
class RunResult:
    """The figures of one run.

    Args:
        name: Last part of the run folder's path.
        parameters: Trainable parameters of the network.
        step_ms: Median duration of a training step in ms; None where none was measured.
        scores: Test results of each case by metric, empty where the run was not tested.
    """

    name: str
    parameters: int
    step_ms: float | None
    scores: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, metric: str) -> float:
        """Return the mean of a test metric over the cases."""
        return fmean(self.scores[metric])

    def spread(self, metric: str) -> float:
        """Return the standard deviation of a test metric over the cases, 0 for a single case."""
        return stdev(self.scores[metric]) if len(self.scores[metric]) > 1 else 0.0


def read_run(path: Path) -> RunResult:
    """Read a run folder.

    Raises:
        PocketError: If it holds no run.
    """
    manifest = path / "manifest.json"
    if not manifest.is_file():
        raise PocketError(f"{path}: no run here (no manifest.json). Train first with `pocket fit --run_dir {path}`.")
    steps = [row["profile/step_ms"] for row in _rows(path / "metrics.csv") if row.get("profile/step_ms")]
    cases = _rows(path / "test" / "cases.csv")
    metrics = [name for name in (cases[0] if cases else {}) if name.startswith("dice")]
    return RunResult(
        name=path.name,
        parameters=int(read_json(manifest)["parameters"]),
        step_ms=float(steps[-1]) if steps else None,
        scores={name: [float(case[name]) for case in cases] for name in metrics},
    )


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
