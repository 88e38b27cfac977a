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
    ) -> nn.Module:
        """Return a module from ``(B, in_channels, *S)`` to ``(B, out_channels, *S / stride)``.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            spatial_dims: Number of spatial axes, 2 or 3.
            kernel_size: Odd size of the kernel in voxels, one number or one per axis.
            stride: Voxels between two outputs, one number or one per axis.

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
    ) -> nn.Module:
        kernel, strides, padding = _geometry(kernel_size, stride, spatial_dims)
        return conv_class(spatial_dims)(in_channels, out_channels, kernel, strides, padding, bias=self.bias)


@dataclass(frozen=True)
class GroupedConv(ConvKind):
    """Grouped convolution, followed by a pointwise one that mixes the groups (the conv set of Lighter U-Net, Table 2).

    The ``k x k (x k)`` convolution keeps the channels; the pointwise one changes them. There is no norm or activation
    in between. A layer with fewer channels than ``group_size`` is one group, and so is a three-channel (RGB) image
    unless ``group_size`` is 1. One group is still a dense ``k x k`` *plus* a pointwise convolution.

    Args:
        group_size: Channels of each group.
        bias: Whether both convolutions have a bias.

    Raises:
        PocketError: If ``group_size`` is below 1; when called, if it does not divide the input channels.
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
    ) -> nn.Module:
        kernel, strides, padding = _geometry(kernel_size, stride, spatial_dims)
        groups = in_channels // self._channels_per_group(in_channels)
        spatial = conv_class(spatial_dims)(
            in_channels, in_channels, kernel, strides, padding, groups=groups, bias=self.bias
        )
        return nn.Sequential(spatial, pointwise(in_channels, out_channels, spatial_dims, bias=self.bias))

    def _channels_per_group(self, in_channels: int) -> int:
        is_rgb = in_channels == 3 and self.group_size > 1
        size = in_channels if is_rgb else min(self.group_size, in_channels)
        if in_channels % size:
            raise PocketError(
                f"layers.conv.group_size: found {self.group_size}, which does not divide the {in_channels} input "
                "channels of a layer. Choose a divisor of every width, or another kind of convolution. Dense blocks "
                "pass the image on, so they seldom suit a group_size above 1."
            )
        return size


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
    ) -> nn.Module:
        kernel, strides, padding = _geometry(kernel_size, stride, spatial_dims)
        # The pointwise convolution is linear, so a bias between the two would only add parameters.
        depthwise = conv_class(spatial_dims)(
            in_channels, in_channels, kernel, strides, padding, groups=in_channels, bias=False
        )
        return nn.Sequential(depthwise, pointwise(in_channels, out_channels, spatial_dims, bias=self.bias))


def pointwise(in_channels: int, out_channels: int, spatial_dims: int, *, bias: bool = True) -> nn.Module:
    """Return a ``1 x 1 (x 1)`` convolution from ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``."""
    return conv_class(spatial_dims)(in_channels, out_channels, kernel_size=1, bias=bias)


def _geometry(
    kernel_size: int | Sequence[int], stride: int | Sequence[int], spatial_dims: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return kernel, stride and the padding that keeps the size, each per axis."""
    kernel = per_axis(kernel_size, spatial_dims, "kernel_size")
    if any(size % 2 == 0 for size in kernel):
        raise PocketError(f"kernel_size: found {kernel_size}, expected odd numbers, so that the size can be kept.")
    return kernel, per_axis(stride, spatial_dims, "stride"), tuple(size // 2 for size in kernel)
