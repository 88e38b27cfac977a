"""Kinds of convolution, interchangeable in every network."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .nd import conv_class, per_axis


class ConvKind(ABC):
    """How a ``k x k (x k)`` convolution is made."""

    @abstractmethod
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> nn.Module:
        """Return a module from ``(B, in_channels, *S)`` to ``(B, out_channels, *S / stride)``.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            spatial_dims: Number of spatial axes, 2 or 3.
            kernel_size: Odd size of the kernel in voxels, one number or one per axis.
            stride: Voxels between two outputs, one number or one per axis.
            dilation: Voxels between two taps of the kernel, one number or one per axis.

        Raises:
            PocketError: If a kernel size is even, or a setting does not suit the number of axes.
        """


@dataclass(frozen=True)
class StandardConv(ConvKind):
    """Dense convolution: every output channel sees every input channel.

    Args:
        bias: Whether each output channel has a bias.
    """

    bias: bool = True

    @override
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> nn.Module:
        geometry = _geometry(kernel_size, stride, dilation, spatial_dims)
        return conv_class(spatial_dims)(in_channels, out_channels, **geometry, bias=self.bias)


@dataclass(frozen=True)
class GroupedConv(ConvKind):
    """Grouped convolution, followed by a pointwise one that mixes the groups (the conv set of Lighter U-Net, Table 2).

    The ``k x k (x k)`` convolution keeps the channels; the pointwise one changes them. There is no norm or activation
    in between. How many channels share a group depends on the input of the layer alone:

    - ``group_size`` of them, or all where there are fewer: one group is a dense ``k x k`` *plus* a pointwise
      convolution;
    - the largest divisor of their number that is not above ``group_size``, where that does not divide it: 3 of the 33
      channels in a dense block for ``group_size`` 8, and 1 of a prime number;
    - all three of an RGB image, unless ``group_size`` is 1. The table's counts need this exception.

    Args:
        group_size: Channels of each group, at most.
        bias: Whether both convolutions have a bias.

    Raises:
        PocketError: If ``group_size`` is below 1.
    """

    group_size: int
    bias: bool = True

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise PocketError(f"layers.conv.group_size: found {self.group_size}, expected at least 1 channel.")

    @override
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> nn.Module:
        geometry = _geometry(kernel_size, stride, dilation, spatial_dims)
        size = self._channels_per_group(in_channels)
        groups = in_channels // size
        spatial = conv_class(spatial_dims)(in_channels, in_channels, **geometry, groups=groups, bias=self.bias)
        mix = pointwise(in_channels, out_channels, spatial_dims, bias=self.bias)
        return ConvSet(spatial, mix, self.group_size, in_channels, size)

    def _channels_per_group(self, in_channels: int) -> int:
        if in_channels == 3 and self.group_size > 1:  # an RGB image
            return 3
        largest = min(self.group_size, in_channels)
        return next(size for size in range(largest, 0, -1) if in_channels % size == 0)


class ConvSet(nn.Sequential):
    """A grouped convolution and the pointwise one behind it, which remember how they came about.

    Args:
        spatial: The grouped convolution.
        mix: The pointwise one.
        asked: Channels of each group that were asked for, at most.
        channels: Channels of the input.
        used: Channels of each group.
    """

    def __init__(self, spatial: nn.Module, mix: nn.Module, asked: int, channels: int, used: int) -> None:
        super().__init__(spatial, mix)
        self.asked = asked
        self.channels = channels
        self.used = used


@dataclass(frozen=True)
class SeparableConv(ConvKind):
    """Depthwise-separable convolution: one kernel per channel without bias, then a pointwise convolution.

    Args:
        bias: Whether the pointwise convolution has a bias.
    """

    bias: bool = True

    @override
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> nn.Module:
        geometry = _geometry(kernel_size, stride, dilation, spatial_dims)
        # The pointwise convolution is linear, so a bias between the two would only add parameters.
        depthwise = conv_class(spatial_dims)(in_channels, in_channels, **geometry, groups=in_channels, bias=False)
        return nn.Sequential(depthwise, pointwise(in_channels, out_channels, spatial_dims, bias=self.bias))


def pointwise(in_channels: int, out_channels: int, spatial_dims: int, *, bias: bool = True) -> nn.Module:
    """Return a ``1 x 1 (x 1)`` convolution from ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``."""
    return conv_class(spatial_dims)(in_channels, out_channels, kernel_size=1, bias=bias)


def _geometry(
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    spatial_dims: int,
) -> dict[str, tuple[int, ...]]:
    """Return the arguments of torch's classes, each per axis; the padding keeps the size."""
    kernel = per_axis(kernel_size, spatial_dims, "kernel_size")
    if any(size % 2 == 0 for size in kernel):
        raise PocketError(f"kernel_size: found {kernel_size}, expected odd numbers, so that the size can be kept.")
    dilations = per_axis(dilation, spatial_dims, "dilation")
    return {
        "kernel_size": kernel,
        "stride": per_axis(stride, spatial_dims, "stride"),
        "padding": tuple(step * (size // 2) for step, size in zip(dilations, kernel, strict=True)),
        "dilation": dilations,
    }
