"""What became of a network, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_pocket.profiling.macs import LayerCost, count_layers

from .layers import Layer
from .reduce import Reduction

COLUMNS = ("layer", "kernels", "sizes", "parameters", "MACs (10)", "MACs executed")
_MOST_SIZES = 4


@dataclass(frozen=True)
class Row:
    """A layer, before and after.

    Args:
        layer: What became of it.
        formula: Multiply-accumulate operations by equation (10) of the structured sparsity paper, in which each kernel
            counts with its own size, before and after.
        executed: Operations that are computed afterwards: more where kernels of several sizes share a convolution.
    """

    layer: Layer
    formula: tuple[int, int]
    executed: int

    @property
    def cells(self) -> tuple[str, ...]:
        """Text for the columns."""
        return (
            self.layer.name,
            _arrow(*self.layer.kernels),
            sizes_text(self.layer),
            _arrow(*self.layer.parameters),
            _arrow(*self.formula),
            f"{self.executed:,}",
        )


@dataclass(frozen=True)
class Summary:
    """A network, before and after.

    Args:
        rows: Of every layer with kernels.
        parameters: Of the network, before and after.
        macs: Executed for one image, before and after.
    """

    rows: list[Row]
    parameters: tuple[int, int]
    macs: tuple[int, int]

    @property
    def record(self) -> dict[str, Any]:
        """Return plain values, for a file."""
        return {
            "parameters": list(self.parameters),
            "macs": list(self.macs),
            "macs_formula": [sum(row.formula[which] for row in self.rows) for which in (0, 1)],
            "removed_layers": [row.layer.name for row in self.rows if not row.layer.kernels[1]],
            "layers": [
                {
                    "name": row.layer.name,
                    "kernels": list(row.layer.kernels),
                    "sizes": {"x".join(map(str, size)): count for size, count in sorted(row.layer.sizes.items())},
                    "parameters": list(row.layer.parameters),
                    "macs_formula": list(row.formula),
                    "macs_executed": row.executed,
                }
                for row in self.rows
            ],
        }


def summarize(before: nn.Module, reduction: Reduction, size: Sequence[int]) -> Summary:
    """Return what became of a network.

    Args:
        before: The network before.
        reduction: What was made of it.
        size: ``(C, *S)`` of the image that it was traced with.
    """
    shape = (1, *size)
    costs = count_layers(reduction.network, shape)
    rows = [
        Row(
            layer,
            (layer.taps[0] * layer.voxels, layer.taps[1] * layer.voxels),
            sum(cost.macs for cost in costs if _belongs(cost, layer)),
        )
        for layer in reduction.layers
    ]
    return Summary(
        rows,
        (_parameters(before), _parameters(reduction.network)),
        (sum(cost.macs for cost in count_layers(before, shape)), sum(cost.macs for cost in costs)),
    )


def sizes_text(layer: Layer) -> str:
    """Return how many kernels of each size are left, largest first."""
    sizes = sorted(layer.sizes.items(), reverse=True)
    shown = [f"{count} of {'x'.join(map(str, size))}" for size, count in sizes[:_MOST_SIZES]]
    rest = sum(count for _, count in sizes[_MOST_SIZES:])
    return ", ".join([*shown, f"{rest} others"] if rest else shown)


def _belongs(cost: LayerCost, layer: Layer) -> bool:
    return f"{cost.name}.".startswith(f"body.{layer.name}.")


def _arrow(before: int, after: int) -> str:
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
