"""Find layers that do nothing: kernels of one tap that copy their channel (structured sparsity, equation (24)).

In a network without shortcuts a layer can be removed only where its kernels are these. Nothing is removed here: such
layers are reported.
"""

from __future__ import annotations

from typing import Any

import torch

from .graph import Graph, Node

#: Functions that change nothing when they are applied a second time.
_IDEMPOTENT = ("relu", "relu6", "hardtanh")


def identity_layers(graph: Graph) -> list[str]:
    """Return the names of convolutions that copy every channel, between two activations of which the second is idle.

    Args:
        graph: A network.
    """
    return [node.name for node in graph.nodes if node.op == "conv" and _copies(node) and _is_between(graph, node)]


def _copies(node: Node) -> bool:
    weight, bias = node.tensors["weight"], node.tensors.get("bias")
    settings = node.settings
    if settings["groups"] != 1 or weight.shape[0] != weight.shape[1] or any(step != 1 for step in settings["stride"]):
        return False
    taps = weight.shape[2:]
    kept = all(
        before == after == step * (size // 2) and size % 2
        for (before, after), size, step in zip(settings["padding"], taps, settings["dilation"], strict=True)
    )
    middle = tuple(size // 2 for size in taps)
    expected = torch.zeros_like(weight)
    centre: Any = (..., *middle)
    expected[centre] = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    return kept and torch.equal(weight, expected) and (bias is None or not bias.any())


def _is_between(graph: Graph, node: Node) -> bool:
    source = node.inputs[0]
    readers = [reader for reader in graph.nodes if node in reader.inputs]
    if source.op != "activation" or source.settings["kind"] not in _IDEMPOTENT:
        return False
    return bool(readers) and all(reader.op == "activation" and reader.settings == source.settings for reader in readers)
