"""Zero what is small: kernels, and the outer rings of kernels, whose norm is at most a threshold.

The norm is that of the kernel with the batch norm behind it folded in, ``gamma / sqrt(var + eps) * k``: a batch norm
makes up for any factor on a kernel, so that the norm of the kernel alone says nothing. Rings are those of the kernel
size regularizer: the first is the outermost, and a kernel without its first ``n`` rings is a smaller kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lightning_pocket.regularizers.rings import half_ring_boxes, ring_boxes, tap_levels

from .graph import Graph, Node
from .kernels import by_group
from .liveness import batch_norm_factors
from .trace import trace

#: ``full`` rings leave the middle; half rings are peeled off one corner and the other in turn, from the named one on.
Rings = Literal["full", "top_left", "bottom_right"]


def threshold(network: nn.Module, size: Sequence[int], tau: float, rings: Rings = "full") -> nn.Module:
    """Return a copy of a network without the kernels and outer rings whose norm is at most ``tau``.

    Layers that make an output of the network are left as they are, and so are linear ones.

    Args:
        network: It is not changed.
        size: ``(C, *S)`` of an image that it takes.
        tau: The threshold; 0 changes nothing.
        rings: What a kernel is peeled into.

    Raises:
        PocketError: If the network cannot be traced.
    """
    copied = copy.deepcopy(network)
    graph = trace(copied, size)
    with torch.no_grad():
        for node in graph.nodes:
            if node.op in ("conv", "conv_transpose") and node not in graph.outputs:
                _shave(node, _scale(graph, node), tau, rings)
    return copied


def ring_of_taps(kernel: Sequence[int], rings: Rings) -> Tensor:
    """Return for each tap the ring that it lies in, counted from 1, the outermost: those of the regularizer.

    Args:
        kernel: Taps along each axis.
        rings: Full or half rings.

    Returns:
        ``(*k)`` int64.
    """
    return tap_levels(ring_boxes(kernel) if rings == "full" else half_ring_boxes(kernel, rings)) + 1


def _scale(graph: Graph, node: Node) -> Tensor | None:
    """Return what the batch norm behind a layer multiplies each kernel by; None where there is none."""
    readers = [reader for reader in graph.nodes if node in reader.inputs]
    if len(readers) == 1 and readers[0].op == "batch_norm":
        return batch_norm_factors(readers[0])[0].abs()
    return None


def _shave(node: Node, scale: Tensor | None, tau: float, rings: Rings) -> None:
    """Zero the weights of a layer in place."""
    weight = node.tensors["weight"]
    transposed = node.op == "conv_transpose"
    groups = node.settings["groups"]
    kernels = by_group(weight, groups).transpose(1, 2).flatten(0, 1) if transposed else weight
    taps = kernels.shape[2:]
    level = torch.ones(tuple(taps), dtype=torch.long) if transposed else ring_of_taps(taps, rings)
    energy = kernels.double().square().sum(1).flatten(1)
    if scale is not None:
        energy = energy * scale.square()[:, None]
    of_ring = energy.new_zeros(len(energy), int(level.max())).index_add(1, level.flatten() - 1, energy)
    peeled = (of_ring.cumsum(1) <= tau**2).sum(1)
    kept = (level.flatten() > peeled[:, None]).reshape(-1, 1, *taps)
    shaved = kernels * kept
    weight.copy_(by_group(shaved, groups).transpose(1, 2).flatten(0, 1) if transposed else shaved)
