"""Keep the state from which an interrupted run continues exactly."""

from __future__ import annotations

from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override

LAST = "checkpoints/last.ckpt"


class LastCheckpoint(Callback):
    """Writes ``checkpoints/last.ckpt`` in the run folder after every epoch.

    Lightning's own callback saves before the epoch's learning-rate schedule has advanced, and a plateau schedule
    forgets that step when the run continues. This one saves when all of an epoch is done: at the start of the next
    one, and when training ends. The file is replaced in one step, so that a kill never leaves half of it.

    Args:
        every_n_epochs: Epochs between two saves; the last one is always saved.
    """

    def __init__(self, every_n_epochs: int = 1) -> None:
        self.every_n_epochs = every_n_epochs

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0 or trainer.current_epoch % self.every_n_epochs:
            return
        # Lightning has already counted the epoch that begins; restored like that, it would skip the epoch's batches.
        progress = trainer.fit_loop.epoch_progress
        for counted in (progress.current, progress.total):
            counted.ready -= 1
        self._save(trainer)
        for counted in (progress.current, progress.total):
            counted.ready += 1

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        path = Path(trainer.default_root_dir) / LAST
        partial = path.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if trainer.is_global_zero:
            partial.replace(path)
        trainer.strategy.barrier()
