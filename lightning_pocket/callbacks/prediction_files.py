"""The label maps that a test predicts, as files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_pocket.storage import write_json

#: What is known of all label maps of a test: which weights predicted them, and what was done to them afterwards.
RECORD = "predictions.json"


class PredictionFiles(Callback):
    """Writes ``test/predictions/<case>.nii.gz`` in the run folder: original grid, original label values.

    ``test/predictions.json`` names the checkpoint and the classes of which only the largest component was kept. Tasks
    that predict no label maps have no such files.
    """

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            folder = _folder(trainer)
            (folder / RECORD).unlink(missing_ok=True)
            shutil.rmtree(folder / "predictions", ignore_errors=True)
        trainer.strategy.barrier()

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
        for index, original in enumerate(batch.get("original", [])):
            subject = batch["subject"][index]
            if subject:
                label: np.ndarray = outputs["predicted"][index].cpu().numpy()
                original.write(label, _folder(trainer) / "predictions" / f"{subject}.nii.gz")

    @override
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and (_folder(trainer) / "predictions").is_dir():
            record = {
                "checkpoint": str(trainer.ckpt_path),
                "largest_component": getattr(pl_module, "largest_component", False),
            }
            write_json(_folder(trainer) / RECORD, record)


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "test"
