"""Do something with a network that leaves no trace."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from .layout import take_values


class Snapshot:
    """Weights, buffers and modes of a module as they are now.

    Args:
        module: It may be changed afterwards; its parameters and buffers must stay the same objects.
    """

    def __init__(self, module: nn.Module) -> None:
        self._tensors = [*module.parameters(), *module.buffers()]
        self._values = [tensor.detach().clone() for tensor in self._tensors]
        self._modes = [(child, child.training) for child in module.modules()]

    def restore(self, layout: bool = False) -> None:
        """Put the values back, bit for bit.

        Args:
            layout: Put the order in memory back too.
        """
        for tensor, value in zip(self._tensors, self._values, strict=True):
            take_values(tensor, value, layout)
        for child, training in self._modes:
            child.training = training


@contextlib.contextmanager
def untouched(module: nn.Module) -> Iterator[Snapshot]:
    """Put weights, buffers, gradients, modes and random states back as they were, bit for bit.

    Args:
        module: What is worked with meanwhile. Its parameters and buffers must stay the same objects.

    Yields:
        The state, to be restored in between too.
    """
    snapshot = Snapshot(module)
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None  # or the kept ones would be added to
    try:
        with random_states_kept():
            yield snapshot
    finally:
        snapshot.restore(layout=True)
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Put the random states of Python, NumPy, torch and every GPU in use back as they were."""
    python, cpu = random.getstate(), torch.get_rng_state()
    numpy = np.random.get_state()  # noqa: NPY002 (the old generator is what libraries use)
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
