"""What kernels answer to constant channels, exactly, at zero-padded borders and for images of any size."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from .padding import pad

#: Sizes whose answers are kept.
_KEPT = 4


class BorderBias(nn.Module):
    """The answer of a convolution to channels that are constant over the image, and its bias.

    Inside an image a removed constant channel adds a constant to each output, which a bias can hold. Near a zero-padded
    border the kernel sees fewer voxels, and it adds less. Both are what the convolution makes of a single channel of
    ones, with the kernels ``sum_j c_j k_j`` over the removed channels ``j``. There is one such answer for a size of
    image, whatever the image; it is kept, unless the kernels are being trained.

    Args:
        conv: Convolution from 1 channel, whose bias is added too.
        padding: ``[before, after]`` of each axis, zeros that are put around the ones first; None for none.
    """

    def __init__(self, conv: nn.Module, padding: list[list[int]] | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.padding = padding
        self._answers: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_answers": OrderedDict()}  # a copy computes its own

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return ``(1, O, *S')``.

        Args:
            x: Anything of shape ``(B, C, *S)``; only its size is looked at.
        """
        weight: Any = self.conv.weight
        trained = torch.is_grad_enabled() and weight.requires_grad
        if trained or torch.compiler.is_compiling() or weight.is_inference():
            return self._compute(x)
        bias: Any = self.conv.bias
        tensors = [weight] if bias is None else [weight, bias]
        key = (*x.shape[2:], weight.dtype, weight.device, *((id(tensor), tensor._version) for tensor in tensors))
        if key not in self._answers:
            self._answers[key] = self._compute(x)
            if len(self._answers) > _KEPT:
                self._answers.popitem(last=False)
        return self._answers[key]

    @override
    def train(self, mode: bool = True) -> Self:
        self._answers.clear()  # weights that were changed through ``.data`` tell nobody
        return super().train(mode)

    def _compute(self, x: Tensor) -> Tensor:
        weight: Any = self.conv.weight
        ones = torch.ones(1, 1, *x.shape[2:], dtype=weight.dtype, device=weight.device)
        if self.padding is not None:
            ones = pad(ones, self.padding, "zeros")
        device = weight.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            answer: Tensor = self.conv(ones)
        return answer
