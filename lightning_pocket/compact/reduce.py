"""Reduce a network: the same function with fewer and smaller kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from lightning_pocket.errors import PocketError
from lightning_pocket.networks.base import Classifier

from .architecture import Architecture
from .graph import Graph
from .layers import Choose, Layer
from .liveness import find_channels, needed_channels
from .network import CompactNetwork, make_network
from .rebuild import rebuild
from .trace import trace


@dataclass(frozen=True)
class Reduction:
    """A reduced network and what was done.

    Args:
        network: With its weights, in evaluation mode.
        layers: What became of every layer with kernels.
        graph: The network before.
    """

    network: CompactNetwork
    layers: list[Layer]
    graph: Graph

    @property
    def removed(self) -> list[str]:
        """Names of the layers that are gone."""
        return [layer.name for layer in self.layers if not layer.kernels[1]]


def keep_sizes(ways: Sequence[object], shape: tuple[int, ...]) -> int:
    """Compute kernels of every size by themselves: the fewest operations."""
    del ways, shape
    return 0


def reduce_network(network: nn.Module, size: Sequence[int], choose: Choose = keep_sizes) -> Reduction:
    """Return a network that computes the same without the kernels, taps and channels that are zero.

    Kernels of zeros are removed, others cropped to the smallest box around what is not zero, and whatever then depends
    on constants alone is replaced by them; all of it is exact in evaluation, at the borders too, for any size of image.
    Channels that are added to each other are not coupled: each summand keeps its own.

    Args:
        network: Takes one tensor; a network of ours, or any module of torch's layers. It is not changed.
        size: ``(C, *S)`` of an image that it takes.
        choose: Decides how kernels of different sizes in one layer are computed together.

    Raises:
        PocketError: If an operation cannot be reduced exactly, or nothing of the image would reach an output.
    """
    refuse_reduced(network)
    graph = trace(network, size)
    known = find_channels(graph)
    rebuilt = rebuild(graph, known, needed_channels(graph, known), choose)
    output, dims = graph.outputs[0], len(size) - 1
    architecture = Architecture(
        in_channels=size[0],
        out_channels=output.channels,
        spatial_dims=dims,
        divisor=tuple(getattr(network, "divisor", (1,) * dims)),
        classifies=isinstance(network, Classifier) or len(output.shape) == 2,
        steps=tuple(rebuilt.steps),
        outputs=tuple(rebuilt.outputs),
    )
    reduced = make_network(architecture)
    reduced.to(_dtype(network))
    reduced.load_state_dict({f"body.{name}": tensor for name, tensor in rebuilt.state.items()})
    return Reduction(reduced.eval(), rebuilt.layers, graph)


def refuse_reduced(network: nn.Module) -> None:
    """Raise an error for a network that is reduced already.

    Raises:
        PocketError: If it is.
    """
    if isinstance(network, CompactNetwork):
        raise PocketError(
            f"the {type(network).__name__} is already reduced. Give the checkpoint of the network before."
        )


def _dtype(network: nn.Module) -> torch.dtype:
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.get_default_dtype())
