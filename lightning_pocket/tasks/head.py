"""Which layers of a network make the logits."""

from __future__ import annotations

from lightning_pocket.layers import FACTORS
from lightning_pocket.networks.base import Network

_HEAD = {"head", "heads"}


def head_layers(network: Network) -> set[str]:
    """Return the names of the layers that make the logits.

    Args:
        network: A network whose last layers lie below an attribute ``head`` or ``heads``; of any other network it is
            the last layer with ``head_channels`` outputs.
    """
    sized = [layer_of(name) for name, tensor in network.named_parameters() if network.head_channels in tensor.shape[:2]]
    named = {layer for layer in sized if _HEAD & set(layer.split("."))}
    return named or set(sized[-1:])


def layer_of(name: str) -> str:
    """Return the name of the layer that a tensor of a state dict belongs to; an expanded layer is one."""
    layer, between, _ = name.partition(FACTORS)
    return layer if between else name.rpartition(".")[0]
