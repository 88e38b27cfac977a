"""Blocks: what a network does at one resolution (PocketNet, Celaya et al., IEEE TMI 2023; counts of Table I)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .conv import pointwise
from .factory import LayerFactory


class BlockKind(ABC):
    """How the units at one resolution are wired."""

    @abstractmethod
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        layers: LayerFactory,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
    ) -> nn.Module:
        """Return a module from ``(B, in_channels, *S)`` to ``(B, out_channels, *S)``.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            layers: Makes the units.
            spatial_dims: Number of spatial axes, 2 or 3.
            kernel_size: Odd size of the kernels in voxels, one number or one per axis.

        Raises:
            PocketError: If a unit cannot be made.
        """


@dataclass(frozen=True)
class PlainBlock(BlockKind):
    """Units in a row, as in U-Net.

    Args:
        units: Number of units.
    """

    units: int = 2

    def __post_init__(self) -> None:
        _check_units(self.units)

    @override
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        layers: LayerFactory,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
    ) -> nn.Module:
        widths = [in_channels] + [out_channels] * self.units
        return nn.Sequential(
            *(
                layers.unit(before, after, spatial_dims=spatial_dims, kernel_size=kernel_size)
                for before, after in pairwise(widths)
            )
        )


@dataclass(frozen=True)
class ResidualBlock(BlockKind):
    """Units in a row, plus a pointwise shortcut that is always there, then an activation.

    Every unit ends in its activation, the last one too, *before* the addition.

    Args:
        units: Number of units.
    """

    units: int = 2

    def __post_init__(self) -> None:
        _check_units(self.units)

    @override
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        layers: LayerFactory,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
    ) -> nn.Module:
        return ResidualModule(
            PlainBlock(self.units)(
                in_channels, out_channels, layers, spatial_dims=spatial_dims, kernel_size=kernel_size
            ),
            pointwise(in_channels, out_channels, spatial_dims),
            layers.activation(out_channels),
        )


@dataclass(frozen=True)
class DenseBlock(BlockKind):
    """Each unit sees the input and all units before it; a pointwise convolution and an activation end the block.

    Args:
        units: Number of units.
    """

    units: int = 2

    def __post_init__(self) -> None:
        _check_units(self.units)

    @override
    def __call__(
        self,
        in_channels: int,
        out_channels: int,
        layers: LayerFactory,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
    ) -> nn.Module:
        seen = [in_channels + index * out_channels for index in range(self.units + 1)]
        units = [
            layers.unit(channels, out_channels, spatial_dims=spatial_dims, kernel_size=kernel_size)
            for channels in seen[:-1]
        ]
        end = nn.Sequential(pointwise(seen[-1], out_channels, spatial_dims), layers.activation(out_channels))
        return DenseModule(units, end)


class ResidualModule(nn.Module):
    """``activation(body(x) + shortcut(x))``, keeps the spatial shape of ``(B, C, *S)``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.activation = activation

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.body(x) + self.shortcut(x))


class DenseModule(nn.Module):
    """Concatenates each unit's output to its input, then applies ``end``; keeps the spatial shape of ``(B, C, *S)``."""

    def __init__(self, units: Sequence[nn.Module], end: nn.Module) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.end = end

    @override
    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = torch.cat([x, unit(x)], dim=1)
        return self.end(x)


def _check_units(units: int) -> None:
    if units < 1:
        raise PocketError(f"block.units: found {units}, expected at least 1.")
