"""Order of the numbers of a tensor in memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def laid_out(x: Tensor, channels_last: bool) -> Tensor:
    """Return a tensor in one of the two layouts; the same tensor if it is in it already.

    Args:
        x: ``(B, C, *S)``.
        channels_last: Whether the channels of a voxel lie side by side, or each channel is a block.
    """
    wanted = _FORMATS.get(x.ndim, torch.contiguous_format) if channels_last else torch.contiguous_format
    return x.contiguous(memory_format=wanted)


@torch.no_grad()
def lay_out(network: nn.Module, channels_last: bool) -> None:
    """Bring every kernel of a network into one of the two layouts, in place; the values stay.

    Args:
        network: Its parameters stay the same objects, so that optimizers go on with them.
        channels_last: See :func:`laid_out`.
    """
    for parameter in network.parameters():
        if parameter.ndim in _FORMATS:
            parameter.data = laid_out(parameter.data, channels_last)


@torch.no_grad()
def take_values(tensor: Tensor, value: Tensor, layout: bool) -> None:
    """Copy numbers into a tensor.

    Args:
        tensor: A parameter or buffer; it stays the same object.
        value: Of the same shape and type.
        layout: Whether the order in memory becomes that of ``value`` too.
    """
    if layout and tensor.stride() != value.stride():
        tensor.data = torch.empty_like(value)
    tensor.copy_(value)


def lay_out_state(state: dict[str, Any], channels_last: bool) -> None:
    """Bring what an optimizer keeps of a kernel into one of the two layouts, in place.

    Args:
        state: Of one parameter.
        channels_last: See :func:`laid_out`.
    """
    for name, value in state.items():
        if isinstance(value, Tensor) and value.ndim in _FORMATS:
            state[name] = laid_out(value, channels_last)
