"""Keep the weights of the best epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from typing_extensions import override


class BestCheckpoint(ModelCheckpoint):
    """Writes ``checkpoints/best.ckpt`` in the run folder whenever the monitored metric improves.

    Args:
        monitor: Metric that is watched; null is the score of the task.
        mode: Whether more or less of it is better.

    Attributes:
        epoch: The epoch whose weights are in the file, counted from 1; None before the first validation.
    """

    def __init__(self, monitor: str | None = None, mode: Literal["min", "max"] = "max") -> None:
        super().__init__(
            filename="best", monitor=monitor, mode=mode, save_weights_only=True, enable_version_counter=False
        )
        self.epoch: int | None = None

    @property
    def record(self) -> dict[str, Any]:
        """``best_epoch``, ``best_monitor`` and ``best_score`` of the file; null before there is one."""
        score = None if self.best_model_score is None or self.epoch is None else float(self.best_model_score)
        finite = score is not None and math.isfinite(score)
        return {
            "best_epoch": self.epoch,
            "best_monitor": self.monitor,
            "best_score": score if finite else None,
        }

    def restart(self) -> None:
        """Choose the best anew, among the epochs that follow; the file stays until one of them is saved."""
        self.best_k_models, self.kth_best_model_path = {}, ""
        self.best_model_score = self.current_score = self.epoch = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.monitor = self.monitor or str(pl_module.score)
        self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "epoch": self.epoch}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        if self.dirpath == state_dict.get("dirpath", self.dirpath):  # else the best of another run does not count
            self.epoch = state_dict.get("epoch")

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self.epoch = trainer.current_epoch + 1  # first: it is part of what is saved
        super()._save_checkpoint(trainer, filepath)
