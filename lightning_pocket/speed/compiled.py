"""``torch.compile`` that never stands in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError

Output = TypeVar("Output")
log = logging.getLogger(__name__)


class Compiled(Generic[Output]):
    """A function of a tensor, compiled for the first shape it meets in training and the first in evaluation.

    Other shapes, such as a last smaller batch, are computed as without compilation: each shape would be compiled anew.
    Where compilation fails, for want of a C++ compiler for example, the function goes on without it and says so once.

    Args:
        function: What to compile.

    Attributes:
        function: The same.
        failure: Why it goes on without compilation, in one line; empty while all is well.
    """

    def __init__(self, function: Callable[[Tensor], Output]) -> None:
        self.failure = ""
        self.function = function
        self._compiled: Callable[[Tensor], Output] | None = None
        self._shapes: dict[bool, tuple[Any, ...]] = {}

    def __call__(self, x: Tensor) -> Output:
        """Return the function's value."""
        shape = (tuple(x.shape), x.dtype, x.device)
        if self.failure or self._shapes.setdefault(torch.is_grad_enabled(), shape) != shape:
            return self.function(x)
        try:
            if self._compiled is None:
                self._compiled = torch.compile(self.function, dynamic=False)
            return self._compiled(x)
        except (PocketError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            output = self.function(x)  # if the function itself is at fault, this raises its own error
            self.give_up(error)
            return output

    def give_up(self, error: BaseException) -> None:
        """Go on without compilation.

        Args:
            error: Why.
        """
        if not self.failure:
            log.warning("torch.compile failed, going on without it: %s", _first_line(error))
        self.failure = _first_line(error)
        self._compiled = None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
