"""A network with the levers it is run with."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from .compiled import Compiled
from .heap import keep_memory
from .layout import laid_out, lay_out
from .levers import Levers
from .thin_features import refuse_thin_features

log = logging.getLogger(__name__)

#: Whether cuDNN searched for algorithms before the lever was first used; None while it is not in use.
_searched: bool | None = None


class Runner:
    """Calls a network with some levers on; weights, names and checkpoints of the network stay as they are.

    Args:
        network: A ``Network``, or what has its two methods. Its kernels are brought into the layout of the levers, in
            place.
        levers: How to run it. ``folded`` is left to whoever gives the network: see :func:`.fold.folded`.

    Attributes:
        network: The same.
        levers: The same.
        trained: Whether it has been run for gradients.
    """

    def __init__(self, network: nn.Module, levers: Levers) -> None:
        self.network = network
        self.levers = levers
        self._forward = Compiled(lambda x: cast("Tensor", network(x)))
        self._outputs = Compiled(cast("Callable[[Tensor], list[Tensor]]", network.outputs))
        self.trained = False
        self.prepare()

    def prepare(self) -> None:
        """Set what is not of one call: the layout of the kernels, and how the process uses memory and cuDNN."""
        lay_out(self.network, self.levers.channels_last)
        if not keep_memory(self.levers.keep_memory):
            log.warning("keep_memory: has no effect on this system, it is a setting of glibc.")
        _search_algorithms(self.levers.benchmark)

    def __reduce__(self) -> tuple[type[Runner], tuple[nn.Module, Levers]]:
        return Runner, (self.network, self.levers)  # a copy runs the copied network, and compiles anew

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits of images ``(B, C, *S)``, in the layout that they come in."""
        with self._context(x):
            return (self._forward if self._compiles else self._forward.function)(self._image(x))

    def outputs(self, x: Tensor) -> list[Tensor]:
        """Return the logits of every head, see ``Network.outputs``."""
        with self._context(x):
            run = self._outputs if self._compiles else self._outputs.function
            return run(self._image(x))

    @property
    def failure(self) -> str:
        """Why it is not compiled although it was to be, in one line; empty while all is well."""
        return self._forward.failure or self._outputs.failure

    def give_up_compiling(self, error: BaseException) -> None:
        """Go on without ``torch.compile``.

        Args:
            error: Why.
        """
        self._outputs.give_up(error)

    @property
    def _compiles(self) -> bool:
        return self.levers.compiled and not self.failure

    def _image(self, x: Tensor) -> Tensor:
        return laid_out(x, channels_last=True) if self.levers.channels_last else x

    @contextlib.contextmanager
    def _context(self, x: Tensor) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.levers.bfloat16:  # if not, autocast that the caller began goes on
                stack.enter_context(torch.autocast(x.device.type, torch.bfloat16))
            if torch.is_grad_enabled() and not self.trained:
                stack.enter_context(refuse_thin_features(self.network, x))
            yield
        self.trained |= torch.is_grad_enabled()


def _search_algorithms(on: bool) -> None:
    """Let cuDNN try its algorithms, or bring its setting back to what it was."""
    global _searched
    if on and _searched is None:
        _searched = torch.backends.cudnn.benchmark
    if on or _searched is not None:
        torch.backends.cudnn.benchmark = on or bool(_searched)
    if not on:
        _searched = None
