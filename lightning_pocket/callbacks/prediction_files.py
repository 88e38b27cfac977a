"""The label maps that a test predicts, as files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class PredictionFiles(Callback):
    """Writes ``test/predictions/<case>.nii.gz`` in the run folder: original grid, original label values.

    The masks of 2D images are ``<case>.png``, in the size of the images.

    Tasks that predict no label maps have no such files.
    """

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            shutil.rmtree(_folder(trainer), ignore_errors=True)
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
                original.write(label, _folder(trainer) / f"{subject}{original.suffix}")


def _folder(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "test" / "predictions"
