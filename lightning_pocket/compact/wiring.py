"""Modules of a reduced network that have no kernels: they bring channels and sizes together."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override


class _AnyBatch(_BatchNorm):
    """Batch norm over any number of axes, which uses its running averages where a batch has one value per channel."""

    @override
    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @override
    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.numel() == input.shape[1]:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(input)


class BatchNorm1d(_AnyBatch, nn.BatchNorm1d):
    """See :class:`_AnyBatch`."""


class BatchNorm2d(_AnyBatch, nn.BatchNorm2d):
    """See :class:`_AnyBatch`; what looks for torch's class finds it."""


class BatchNorm3d(_AnyBatch, nn.BatchNorm3d):
    """See :class:`_AnyBatch`; what looks for torch's class finds it."""


BATCH_NORMS: dict[int, type[_AnyBatch]] = {1: BatchNorm1d, 2: BatchNorm2d, 3: BatchNorm3d}


class Select(nn.Module):
    """Some channels of ``(B, C, *S)``, in a given order."""

    channels: Tensor

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("channels", torch.tensor(channels), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.channels)


class Fill(nn.Module):
    """Channels of ``(B, C, *S)`` at their positions among constants.

    Args:
        channels: Number of channels of the result.
        positions: Where each channel of the input goes; none where only its size is looked at.
    """

    values: Tensor
    positions: Tensor

    def __init__(self, channels: int, positions: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("values", torch.zeros(channels))
        self.register_buffer("positions", torch.tensor(positions, dtype=torch.long), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        constants = self.values.to(x.dtype).reshape(1, -1, *[1] * (x.ndim - 2))
        filled = constants.expand(len(x), -1, *x.shape[2:])
        return filled.index_copy(1, self.positions, x) if len(self.positions) else filled.contiguous()


class Shift(nn.Module):
    """A constant is added to each channel of ``(B, C, *S)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift.reshape(1, -1, *[1] * (x.ndim - 2))


class Add(nn.Module):
    """Sum of several results, each of which has some of the channels.

    Args:
        channels: Number of channels of the result.
        positions: Where the channels of each summand go; None where it has all of them, in their order.
        shift: Whether a constant is added to each channel.
    """

    def __init__(self, channels: int, positions: Sequence[Sequence[int] | None], shift: bool) -> None:
        super().__init__()
        self.channels = channels
        self._complete = [entry is None for entry in positions]
        for index, entry in enumerate(positions):
            if entry is not None:
                self.register_buffer(f"positions_{index}", torch.tensor(entry), persistent=False)
        self.shift = nn.Parameter(torch.zeros(channels)) if shift else None

    @override
    def forward(self, *summands: Tensor) -> Tensor:
        total: Tensor | None = None
        for index in sorted(range(len(summands)), key=lambda index: not self._complete[index]):
            x = summands[index]
            if self._complete[index]:
                total = x if total is None else total + x
                continue
            if total is None:
                total = x.new_zeros(len(x), self.channels, *x.shape[2:])
            if total.shape[2:] != x.shape[2:]:  # index_add looks only when there are values
                raise ValueError(f"sizes {tuple(total.shape[2:])} and {tuple(x.shape[2:])} are added")
            total = total.index_add(1, getattr(self, f"positions_{index}"), x.to(total.dtype))
        if total is None:
            raise ValueError("nothing to add")
        return total if self.shift is None else total + self.shift.reshape(1, -1, *[1] * (total.ndim - 2))


class Concat(nn.Module):
    """The channels of several results, one after the other."""

    @override
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)


class Scale(nn.Module):
    """A number times ``(B, C, *S)``."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class AdaptivePool(nn.Module):
    """Maximum or mean of each channel, in as many parts as are asked for; None keeps an axis."""

    def __init__(self, how: str, size: Sequence[int | None]) -> None:
        super().__init__()
        self.how = how
        self.size = tuple(size)

    @override
    def forward(self, x: Tensor) -> Tensor:
        size = [length if part is None else part for part, length in zip(self.size, x.shape[2:], strict=True)]
        name = f"adaptive_{'max' if self.how == 'max' else 'avg'}_pool{len(size)}d"
        pooled: Tensor = getattr(F, name)(x, size)
        return pooled


class Reduce(nn.Module):
    """Maximum or mean of each channel: ``(B, C, *S)`` to ``(B, C)``, or to ``(B, C, 1, ...)``."""

    def __init__(self, how: str, keep: bool) -> None:
        super().__init__()
        self.how = how
        self.keep = keep

    @override
    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        return x.amax(axes, keepdim=self.keep) if self.how == "max" else x.mean(axes, keepdim=self.keep)


class ResizeLike(nn.Module):
    """Interpolation to the spatial size of another result."""

    def __init__(self, mode: str, align_corners: bool | None) -> None:
        super().__init__()
        self.mode = mode
        self.align_corners = align_corners

    @override
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(x, like.shape[2:], mode=self.mode, align_corners=self.align_corners)


class ExpandLike(nn.Module):
    """One value per channel, at every voxel of another result."""

    @override
    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        return x.expand(-1, -1, *like.shape[2:])


class Size(nn.Module):
    """A tensor ``(B, 0, *S')`` without channels, for what is no longer computed but whose size is asked for.

    Args:
        rule: How ``S'`` follows from ``S``: ``window``, ``transposed``, ``scale``, ``fixed`` or ``joined``.
        numbers: Of the operation, by name, one list entry per axis.
    """

    def __init__(self, rule: str, **numbers: Any) -> None:
        super().__init__()
        self.rule = rule
        self.numbers = numbers

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.new_empty(len(x), 0, *size_after(self.rule, tuple(x.shape[2:]), **self.numbers))


def size_after(rule: str, size: tuple[int, ...], /, **numbers: Any) -> list[int]:
    """Return the spatial size behind an operation; see :class:`Size`."""
    if rule == "fixed":
        given = numbers["size"]
        kept = [*size, *[1] * len(given)]
        return [kept[axis] if length is None else int(length) for axis, length in enumerate(given)]
    if rule == "joined":
        return [prod(size)]
    if rule == "scale":
        return [floor(length * factor) for length, factor in zip(size, numbers["scale"], strict=True)]
    columns = zip(size, numbers["kernel"], numbers["stride"], numbers["padding"], numbers["dilation"], strict=True)
    if rule == "transposed":
        return [
            (length - 1) * step - before - after + gap * (taps - 1) + extra + 1
            for (length, taps, step, (before, after), gap), extra in zip(
                columns, numbers["output_padding"], strict=True
            )
        ]
    return [_window(*column, ceil_mode=numbers["ceil_mode"]) for column in columns]


def _window(length: int, taps: int, step: int, padding: Sequence[int], gap: int, ceil_mode: bool) -> int:
    steps = (length + sum(padding) - gap * (taps - 1) - 1) / step
    if not ceil_mode:
        return floor(steps) + 1
    windows = ceil(steps) + 1
    return windows - 1 if (windows - 1) * step >= length + padding[0] else windows
