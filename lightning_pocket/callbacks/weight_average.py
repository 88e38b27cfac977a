"""Validate, test and save an exponential moving average of the weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError

Tensors = dict[str, Tensor]


class WeightAverage(Callback):
    r"""Keeps an exponential moving average (EMA) of the weights beside those that are trained.

    After every optimizer step, whatever the number of batches accumulated in it, each trained parameter is averaged:
    :math:`\bar w \leftarrow d\,\bar w + (1 - d)\,w`. Validation sees the average, and it is what every checkpoint
    holds as the weights, so ``best.ckpt`` and ``last.ckpt`` give it to ``pocket test`` and ``load_task``. The weights
    that are trained travel in this callback's part of ``last.ckpt``: a run continues with both, bit for bit.
    Buffers, such as the running statistics of batch norm, are not averaged: they are those of the trained network,
    and moving averages already.

    Lightning's own ``EMAWeightAveraging`` leaves the average out of checkpoints that hold weights only.

    Args:
        decay: Share of the average that a step keeps, from 0 up to but not including 1.
        warmup: Keep less at first: :math:`\min(d, (1 + n) / (10 + n))` after ``n`` updates, so that the random
            weights of the beginning are soon forgotten.

    Raises:
        PocketError: If ``decay`` is out of range.

    References:
        Polyak and Juditsky, SIAM Journal on Control and Optimization 1992; the warm-up is that of TensorFlow's
        ``ExponentialMovingAverage``.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise PocketError(f"WeightAverage.decay: found {decay}; give a number from 0 up to but not including 1.")
        self.decay = decay
        self.warmup = warmup
        self.updates = 0
        self._step = 0
        self._parameters: dict[str, nn.Parameter] = {}
        self._average: Tensors = {}
        self._trained: Tensors = {}  # the weights that are trained, while the network holds the average
        self._restored: Tensors = {}

    def decay_at(self, updates: int) -> float:
        """Return the decay of the update that follows ``updates`` others."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._parameters = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
        self._average = _copy(self._parameters)  # of a checkpoint, these are averages already
        _assign(self._parameters, self._restored)
        self._restored = {}
        hook = partial(_save_average, self._average)
        self._hook = pl_module.register_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        trained = [self._parameters[name].detach() for name in self._average]
        torch._foreach_lerp_(list(self._average.values()), trained, 1 - self.decay_at(self.updates))
        self.updates += 1

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._trained = _copy(self._parameters)
        _assign(self._parameters, self._average)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _assign(self._parameters, self._trained)
        self._trained = {}

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _assign(self._parameters, self._average)
        self._hook.remove()
        self._parameters, self._average = {}, {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "trained": self._trained or _copy(self._parameters)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates = state_dict["updates"]
        self._restored = state_dict["trained"]


def _save_average(average: Tensors, _module: nn.Module, state: dict[str, Any], prefix: str, _metadata: Any) -> None:
    """Replace the trained weights in a checkpoint that is being written."""
    state.update({f"{prefix}{name}": tensor for name, tensor in average.items()})


def _copy(tensors: dict[str, nn.Parameter]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@torch.no_grad()
def _assign(targets: dict[str, nn.Parameter], values: Tensors) -> None:
    for name, value in values.items():
        targets[name].copy_(value)
