"""Turn a training that ran out of memory into one line that says which setting to change."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_pocket.errors import PocketError
from lightning_pocket.losses import deep_supervision_loss
from lightning_pocket.profiling.memory import Device, predict_training
from lightning_pocket.profiling.out_of_memory import Settings, available_mib, explain, recognise
from lightning_pocket.speed.heap import can_keep_memory
from lightning_pocket.tasks.base import BaseTask

#: Share of the free memory that an advice fills: loading the batches and gaps between blocks take some too.
_FILLED = 0.9
#: How much more a process holds that keeps freed memory: measured 1.3 to 1.7 times (docs/performance.md).
_KEPT = 1.6


@dataclass(frozen=True)
class _Needed:
    peak_mib: float


class MemoryAdvice:
    """What there is before training begins, to be compared with what training needs if it fails.

    Args:
        task: What will be trained.
        trainer: What will train it.
        batch_size: Images per step and process.
    """

    def __init__(self, task: BaseTask, trainer: Trainer, batch_size: int) -> None:
        self.task = task
        self.trainer = trainer
        self.device: Device = "cuda" if trainer.strategy.root_device.type == "cuda" else "cpu"
        self.settings = Settings(
            batch_size,
            task.info.patch_size,
            task.network.divisor,
            patch_key=task.size_key,
            keeps_memory=task.levers.keep_memory and self.device == "cpu" and can_keep_memory(),
        )
        free = available_mib(self.device)
        weights = sum(parameter.nbytes for parameter in task.network.parameters()) / 2**20
        here = weights if self.device == "cpu" else 0.0  # the prediction counts them too
        self.budget_mib = None if free is None else _FILLED * (free + here)
        self._times = _KEPT if self.settings.keeps_memory else 1.0

    def explain(self, error: Exception) -> PocketError | None:
        """Return what to change, None if the error is no lack of memory.

        Args:
            error: What training raised; the tensors that its traceback holds are freed.
        """
        kind = recognise(error)
        if kind is None:
            return None
        cause: BaseException | None = error
        while cause is not None:
            traceback.clear_frames(cause.__traceback__)
            cause = cause.__cause__ or cause.__context__
        gc.collect()
        if kind == "memory" and (self.trainer.validating or self.trainer.sanity_checking):
            return PocketError(
                "out of memory while validating: --config validate_patches looks at one patch per case; lower "
                "data.init_args.batch_size where it does so already, or model.init_args.inference.window_batch."
            )
        try:
            return explain(kind, self.settings, self._predict, self.budget_mib, self.device)
        except (PocketError, MemoryError, RuntimeError):  # a clear line without numbers is better than none
            return PocketError(
                f"out of memory: lower {self.settings.batch_key}, which is {self.settings.batch_size}, or "
                f"{self.settings.patch_key}, which is {list(self.settings.patch_size)}."
            )

    def _predict(self, batch_size: int, patch_size: Sequence[int]) -> _Needed:
        network = self.task.network
        memory = predict_training(
            lambda: network,
            self._loss,
            self.task.make_optimizer,
            (batch_size, network.in_channels, *patch_size),
            network.out_channels,
            str(self.trainer.precision),
            self.device,
            torch.get_num_threads(),
        )
        return _Needed(self._times * memory.peak_mib)

    def _loss(self, output: Any, target: Tensor) -> Tensor:
        loss = cast("Callable[[Any, Tensor], Tensor]", self.task.loss)
        return deep_supervision_loss(output, target, loss) if isinstance(output, list) else loss(output, target)
