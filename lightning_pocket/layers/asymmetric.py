"""Asymmetric convolution blocks: a square kernel and a line along each axis (ACNet, Ding et al., ICCV 2019)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .nd import batch_norm_class


class AsymmetricBlock(nn.Module):
    """The sum of a ``k x k (x k)`` convolution and of one line of ``k`` taps along each axis, with a batch norm each.

    It stands for a convolution and the batch norm behind it, and :meth:`fused` is that convolution, with bias: exact at
    the borders too, since all branches have their middle taps on the same pixels.

    Args:
        conv: The convolution of torch whose place it takes; its channels, stride, padding, dilation and groups stay.
        norm: The batch norm behind it; its ``eps`` and ``momentum`` are those of every branch.

    Raises:
        PocketError: If a side of the kernel is even or the padding is not made of zeros.
    """

    def __init__(self, conv: Any, norm: Any) -> None:
        super().__init__()
        size = _checked(conv)
        make_norm = batch_norm_class(len(size))
        geometry: dict[str, Any] = {
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "stride": conv.stride,
            "dilation": conv.dilation,
            "groups": conv.groups,
            "bias": False,
        }

        def branch(kernel: tuple[int, ...], padding: tuple[int, ...]) -> nn.Sequential:
            return nn.Sequential(
                type(conv)(**geometry, kernel_size=kernel, padding=padding),
                make_norm(conv.out_channels, eps=norm.eps, momentum=norm.momentum),
            )

        self.square = branch(size, tuple(conv.padding))
        self.lines = nn.ModuleList()
        self._margins: list[list[int]] = []
        # Across a line, the border of the input is moved until its taps lie on the middle taps of the square.
        half = [step * (side // 2) for step, side in zip(conv.dilation, size, strict=True)]
        across = [own - reach for own, reach in zip(conv.padding, half, strict=True)]
        for axis in range(len(size)):
            along = [own if index == axis else 0 for index, own in enumerate(conv.padding)]
            kernel = tuple(side if index == axis else 1 for index, side in enumerate(size))
            self.lines.append(branch(kernel, tuple(along)))
            margins = [0 if index == axis else own for index, own in enumerate(across)]
            self._margins.append([own for margin in reversed(margins) for own in (margin, margin)])

    @override
    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.square(x)
        for line, margins in zip(self.lines, self._margins, strict=True):
            total = total + line(F.pad(x, margins) if any(margins) else x)
        return total

    def fused(self) -> nn.Module:
        """Return one convolution with bias that does the same in evaluation; computed in double precision."""
        square: Any = self.square
        conv = square[0]
        made: nn.Module = type(conv)(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
            conv.groups,
        )
        kernel = torch.zeros_like(conv.weight, dtype=torch.float64)
        bias = torch.zeros(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
        for line in (square, *self.lines):
            weight, shift = _folded(*line)
            first = [(whole - own) // 2 for whole, own in zip(kernel.shape[2:], weight.shape[2:], strict=True)]
            place = [slice(start, start + own) for start, own in zip(first, weight.shape[2:], strict=True)]
            kernel[(slice(None), slice(None), *place)] += weight
            bias += shift
        made = made.to(device=conv.weight.device, dtype=conv.weight.dtype)
        made.load_state_dict({"weight": kernel, "bias": bias})
        return made.train(self.training)


def _checked(conv: Any) -> tuple[int, ...]:
    """Return the size of the kernel of a convolution that a block can take the place of."""
    size: tuple[int, ...] = tuple(conv.kernel_size)
    if any(side % 2 == 0 for side in size):
        raise PocketError(f"asymmetric: found a kernel of {size}, expected odd sides, which have a middle tap.")
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        raise PocketError(
            f"asymmetric: found padding {conv.padding} of mode {conv.padding_mode}, expected numbers of zeros: the "
            "lines of a block see another border."
        )
    return size


def _folded(conv: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Return kernel and bias, float64, of a convolution without bias and the batch norm behind it."""
    scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
    kernel = conv.weight.detach().double() * scale.view(-1, *[1] * (conv.weight.ndim - 1))
    return kernel, norm.bias.detach().double() - norm.running_mean.double() * scale
