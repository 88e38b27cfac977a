"""File what a test finds under the step that its weights are from."""

from __future__ import annotations

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class CheckpointStep(Callback):
    """Lets ``test`` log under the epoch and step at which the checkpoint's training logged last.

    Lightning logs it under epoch 0 and step 0.
    """

    @override
    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.ckpt_path:
            return
        checkpoint = torch.load(trainer.ckpt_path, map_location="cpu", mmap=True, weights_only=True)
        begun: int = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["ready"]
        trainer.fit_loop.epoch_progress.current.completed = max(begun - 1, 0)
        trainer.fit_loop.epoch_loop._batches_that_stepped = max(checkpoint["global_step"] - 1, 0)
