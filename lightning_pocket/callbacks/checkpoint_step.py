"""File what a test finds under the step that its weights are from."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from typing_extensions import override


class CheckpointStep(Callback):
    """Lets ``test`` and ``validate`` log under the epoch and step at which the checkpoint's training logged last.

    Lightning logs them under epoch 0 and step 0, so that ``validate`` would bend the curves of the training back to
    their beginning.
    """

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._set_step(trainer)

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._set_step(trainer)

    def _set_step(self, trainer: Trainer) -> None:
        if not trainer.ckpt_path:
            return
        checkpoint = torch.load(trainer.ckpt_path, map_location="cpu", mmap=True, weights_only=True)
        begun: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
        trainer.fit_loop.epoch_progress.current.completed = max(begun - 1, 0)
        trainer.fit_loop.epoch_loop._batches_that_stepped = max(checkpoint["global_step"] - 1, 0)
