"""Stop when the loss is no longer a number, and say which cases it was."""

from __future__ import annotations

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.types import Batch


class FiniteLoss(Callback):
    """Ends a run whose loss is NaN or infinite, naming the cases of the batch.

    A loss is looked at when the next step begins: by then it is known on a GPU too, and training need not wait for
    it. The last checkpoint is from before the bad step, so the run can be mended and continued.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, list[str], int] | None = None

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        self._look()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._pending = (torch.isfinite(loss.detach()), list(batch["subject"]), trainer.global_step)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look()

    def _look(self) -> None:
        if self._pending is None:
            return
        finite, subjects, step = self._pending
        self._pending = None
        if not finite:
            raise PocketError(
                f"the loss is not finite at step {step}; the batch held {', '.join(subjects)}. Look at these cases "
                "with `pocket check`, lower the learning rate, or set trainer.gradient_clip_val."
            )
