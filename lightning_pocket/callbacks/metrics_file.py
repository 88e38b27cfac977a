"""Metrics of a run as one CSV file that survives interruptions."""

from __future__ import annotations

import csv
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger
from typing_extensions import override

from lightning_pocket.storage import write_csv


class MetricsFile(Logger):
    """Logger that keeps ``metrics.csv`` in the run folder, one row per step.

    Lightning's CSV logger deletes the rows of earlier attempts when a run continues. This one reads them back, and
    steps that are run again replace their rows.

    Args:
        save_dir: Folder of the file; the command line sets it to the run folder.
    """

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        self._folder = Path(save_dir)
        self._rows: dict[int, dict[str, Any]] | None = None

    @property
    @override
    def name(self) -> str:
        return ""

    @property
    @override
    def version(self) -> str:
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self._folder)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` in the same folder holds them."""

    @override
    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if self._rows is None:
            self._rows = self._read()
        number = 0 if step is None else step
        self._rows.setdefault(number, {"step": number}).update(metrics)

    @override
    @rank_zero_only
    def save(self) -> None:
        if not self._rows:
            return
        columns = sorted({name for row in self._rows.values() for name in row} - {"step", "epoch"})
        write_csv(self._path, ["epoch", "step", *columns], [self._rows[number] for number in sorted(self._rows)])

    @override
    def finalize(self, status: str) -> None:
        self.save()

    @property
    def _path(self) -> Path:
        return self._folder / "metrics.csv"

    def _read(self) -> dict[int, dict[str, Any]]:
        if not self._path.is_file():
            return {}
        with self._path.open(newline="", encoding="utf-8") as file:
            return {int(row["step"]): {k: v for k, v in row.items() if v} for row in csv.DictReader(file)}
