"""Prediction of a batch of windows, in smaller parts where memory is short."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import combinations

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError


class WindowPredictor:
    """Calls a network on windows; halves the number of windows at a time whenever memory runs out.

    Args:
        predict: Maps windows ``(B, C, *S)`` to outputs ``(B, K, *S)``.
        flips: Average the outputs over every combination of flipped axes, each flipped back.
    """

    def __init__(self, predict: Callable[[Tensor], Tensor], flips: bool = False) -> None:
        self.predict = predict
        self.flips = flips
        self.at_once: int | None = None  # no limit until memory ran out

    def __call__(self, crops: Sequence[Tensor]) -> list[Tensor]:
        """Return the output of each window.

        Args:
            crops: Windows ``(B, C, *S)``.

        Raises:
            PocketError: If an output has another size than its window.
            RuntimeError: If memory runs out with a single window.
        """
        at_once = min(self.at_once or len(crops), len(crops))
        try:
            parts = [crops[first : first + at_once] for first in range(0, len(crops), at_once)]
            return [output for part in parts for output in self._outputs(torch.cat(list(part))).chunk(len(part))]
        except RuntimeError as error:
            if at_once == 1 or not is_out_of_memory(error):
                raise
        # Here the failed attempt is no longer referred to by an exception, and its memory can be used again.
        free_cached_memory()
        self.at_once = at_once // 2
        warnings.warn(f"{at_once} windows at a time do not fit into memory: going on with {self.at_once}", stacklevel=2)
        return self(crops)

    def _outputs(self, crops: Tensor) -> Tensor:
        outputs = self._checked(crops)
        if not self.flips:
            return outputs
        axes = range(2, crops.ndim)
        flips = [flip for count in range(1, crops.ndim - 1) for flip in combinations(axes, count)]
        for number, flip in enumerate(flips, start=2):
            flipped = self._checked(crops.flip(flip)).flip(flip)
            outputs = outputs.lerp(flipped, 1 / number)  # a running mean: outputs that agree come back exactly
        return outputs

    def _checked(self, crops: Tensor) -> Tensor:
        outputs = self.predict(crops).float()
        if outputs.shape[0] != crops.shape[0] or outputs.shape[2:] != crops.shape[2:]:
            raise PocketError(
                f"predict: found an output of shape {tuple(outputs.shape)} for windows of shape {tuple(crops.shape)}; "
                "expected the same batch and spatial size. Choose a patch_size that the network returns unchanged."
            )
        return outputs


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def free_cached_memory() -> None:
    """Give what torch keeps for later back to the GPU."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
