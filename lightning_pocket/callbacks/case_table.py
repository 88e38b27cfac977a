"""Results of a test, one row per case."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_pocket.reports.case_table import print_cases
from lightning_pocket.reports.classified import as_classified, is_classified, print_classified
from lightning_pocket.storage import write_csv
from lightning_pocket.types import CASE_METRICS

from .logged_results import log_cases

Row = dict[str, Any]


class CaseTable(Callback):
    """Writes ``test/cases.csv`` in the run folder, and prints it: of images that have one class each a summary.

    Means of the scores of cases, such as the Dice, are logged as ``test/...`` metrics, and W&B gets the table.
    """

    def __init__(self) -> None:
        self._rows: list[Row] = []

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._rows = []

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._rows.extend(outputs["rows"])

    @override
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = sorted(_gather(self._rows), key=lambda row: str(row["subject"]))
        scores = [name for name in rows[0] if name.startswith(tuple(CASE_METRICS))] if rows else []
        means = {f"test/{name}": fmean(row[name] for row in rows) for name in scores}
        pl_module.log_dict(means, rank_zero_only=True)
        if trainer.is_global_zero and rows:
            path = Path(trainer.default_root_dir) / "test" / "cases.csv"
            write_csv(path, list(rows[0]), rows)
            log_cases(trainer, rows)
            _print(rows, str(trainer.ckpt_path))
            trainer.print(f"written: {path}")


def _print(rows: list[Row], checkpoint: str) -> None:
    if is_classified(list(rows[0])):
        print_classified(as_classified(rows, checkpoint), title=checkpoint)
    else:
        print_cases(rows, title=f"{checkpoint}, scored on the images' own grids")


def _gather(rows: list[Row]) -> list[Row]:
    """Return the rows of every process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    gathered: list[list[Row]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, rows)
    return [row for part in gathered for row in part]
