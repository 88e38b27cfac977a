"""Activation checkpointing: compute features again for the gradients instead of keeping them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def recompute(function: Callable[..., Tensor], modules: list[nn.Module], *inputs: Tensor) -> Tensor:
    """Call a function, keeping its inputs for the gradients and nothing of what it computes in between.

    Values, gradients, random numbers and the running statistics of batch norms are those of a plain call, bit for bit.

    Args:
        function: What to call.
        modules: The layers it calls.
        inputs: Its arguments.

    Returns:
        What ``function`` returns.

    References:
        Chen et al., Training deep nets with sublinear memory cost, 2016.
    """
    if not torch.is_grad_enabled():
        return function(*inputs)
    if torch.compiler.is_compiling():  # a compiled graph takes no contexts; it decides itself what to compute again
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=partial(_contexts, modules))


def _contexts(modules: list[nn.Module]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return what surrounds the first and the second computation."""
    return nullcontext(), _StatisticsKept(modules)


class _StatisticsKept(AbstractContextManager[None]):
    """Lets batch norms update copies of their running statistics: the first computation has updated them already."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self._norms = [norm for module in modules for norm in module.modules() if isinstance(norm, _NORMS)]
        self._kept: list[tuple[nn.Module, dict[str, Tensor | None]]] = []

    def __enter__(self) -> None:
        self._kept = [(norm, dict(norm._buffers)) for norm in self._norms]
        for norm, buffers in self._kept:
            for name, value in buffers.items():
                norm._buffers[name] = None if value is None else value.clone()

    def __exit__(self, *_: Any) -> None:
        for norm, buffers in self._kept:
            norm._buffers.update(buffers)
