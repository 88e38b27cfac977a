"""Keep the weights of the best epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from typing_extensions import override


class BestCheckpoint(ModelCheckpoint):
    """Writes ``checkpoints/best.ckpt`` in the run folder whenever the monitored metric improves.

    Args:
        monitor: Metric that is watched; null is the score of the task.
        mode: Whether more or less of it is better.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["min", "max"] = "max") -> None:
        super().__init__(
            filename="best", monitor=monitor, mode=mode, save_weights_only=True, enable_version_counter=False
        )

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.monitor = self.monitor or str(pl_module.score)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)
