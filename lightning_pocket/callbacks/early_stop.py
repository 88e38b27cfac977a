"""End a run that no longer improves."""

from __future__ import annotations

from typing import Literal

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping
from typing_extensions import override


class EarlyStop(EarlyStopping):
    """Ends training when a metric has not improved for some epochs, and says so in one line.

    The count of epochs without progress travels in the checkpoint: a run that was interrupted ends where it would
    have ended. A run that was ended early is finished.

    Args:
        monitor: Metric that is watched; null is the score of the task.
        mode: Whether more or less of it is better.
        patience: Epochs (validations, where not every epoch is validated) without progress after which to stop.
        min_delta: Least change that counts as progress.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
        patience: int = 20,
        min_delta: float = 0.0,
    ) -> None:
        super().__init__(monitor=monitor or "", mode=mode, patience=patience, min_delta=min_delta)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.monitor = self.monitor or str(pl_module.score)
        super().setup(trainer, pl_module, stage)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason_message:  # killed after it had decided to stop
            trainer.should_stop = True

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.stopping_reason_message:
            reason = self.stopping_reason_message.replace("Signaling Trainer to stop.", "").strip()
            trainer.print(f"stopped early after {trainer.current_epoch} epochs: {reason}")
