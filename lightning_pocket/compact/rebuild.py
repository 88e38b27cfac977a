"""Write down the reduced network: the operations that are left, on the channels that are left, and their weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .architecture import Step
from .graph import IMAGE, Graph, Node, is_taken
from .kernels import WITH_KERNELS
from .layers import Choose, Layer, reduce_conv, reduce_linear
from .liveness import Channels

#: Operations with the spatial size of their first input.
_SAME_SIZE = (
    *("batch_norm", "instance_norm", "prelu", "activation", "scale", "dropout", "add", "concat", "zeros", "extend"),
    "take",
)  # fmt: skip


@dataclass
class Rebuilt:
    """A reduced network.

    Args:
        steps: What is computed.
        outputs: Names of the steps that are returned.
        state: Weights by the name of their step and tensor.
        layers: What became of every layer with kernels, in order.
    """

    steps: list[Step] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    state: dict[str, Tensor] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)


def rebuild(graph: Graph, known: dict[Node, Channels], needed: dict[Node, Tensor], choose: Choose) -> Rebuilt:
    """Return the reduced network.

    Args:
        graph: The network.
        known: Which channels are alive, and the constants of the others.
        needed: Which channels are read.
        choose: Decides how kernels of different sizes in one layer are computed together.
    """
    with torch.no_grad():
        return _Rebuild(known, needed, choose).run(graph)


class _Rebuild:
    """Goes through a network in order; every result carries some of its channels, in an order of its own."""

    def __init__(self, known: dict[Node, Channels], needed: dict[Node, Tensor], choose: Choose) -> None:
        self.known = known
        self.needed = needed
        self.choose = choose
        self.result = Rebuilt()
        self.carried: dict[Node, tuple[str, list[int]]] = {}
        self._selected: dict[tuple[str, tuple[int, ...]], str] = {}
        self._sizes: dict[Node, str] = {}
        self._names: set[str] = set()

    def run(self, graph: Graph) -> Rebuilt:
        self._names = {node.name for node in graph.nodes}
        for node in graph.nodes:
            kept = (self.needed[node] & self.known[node].live).nonzero().flatten().tolist()
            if node.op == "input":
                self.carried[node] = (IMAGE, list(range(node.channels)))
            elif node.op in WITH_KERNELS:
                self._with_kernels(node, kept)
            elif kept:
                self.carried[node] = _RULES[node.op](self, node, kept)
        for output in graph.outputs:
            self.result.outputs.append(self._filled(output, list(range(output.channels))))
        return self.result

    # ------------------------------------------------------------------------------------------------- emission

    def _emit(self, name: str, op: str, inputs: Sequence[str], settings: dict[str, Any], **tensors: Tensor) -> str:
        self.result.steps.append(Step(name, op, tuple(inputs), settings))
        self.result.state |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
        return name

    def _beside(self, node: Node, what: str) -> str:
        """Return a new name next to that of a node."""
        stem = IMAGE if node.op == "input" else node.name
        name, number = f"{stem}_{what}", 1
        while is_taken(name, self._names):
            number += 1
            name = f"{stem}_{what}_{number}"
        self._names.add(name)
        return name

    def _source(self, node: Node, wanted: list[int]) -> str:
        """Return the name of what carries exactly these live channels of a result, in this order."""
        name, channels = self.carried[node]
        if channels == wanted:
            return name
        key = (name, tuple(wanted))
        if key not in self._selected:
            position = {channel: index for index, channel in enumerate(channels)}
            chosen = [position[channel] for channel in wanted]
            self._selected[key] = self._emit(self._beside(node, "select"), "select", [name], {"channels": chosen})
        return self._selected[key]

    def _filled(self, node: Node, wanted: list[int]) -> str:
        """Return the name of what carries these channels of a result, constants too."""
        carried = self.carried[node][1] if node in self.carried else []
        if set(wanted) <= set(carried):
            return self._source(node, wanted)
        every = set(wanted)
        there = [channel for channel in carried if channel in every]
        source = self._source(node, there) if there else self._size(node)
        position = {channel: index for index, channel in enumerate(wanted)}
        values = self.known[node].value[wanted]
        settings = {"channels": len(wanted), "positions": [position[channel] for channel in there]}
        return self._emit(self._beside(node, "fill"), "fill", [source], settings, values=values)

    def _size(self, node: Node) -> str:
        """Return the name of something with the spatial size of a result."""
        if node in self.carried:
            return self.carried[node][0]
        if node not in self._sizes:
            self._sizes[node] = self._emit_size(node)
        return self._sizes[node]

    def _emit_size(self, node: Node) -> str:
        if node.op in _SAME_SIZE:
            return self._size(node.inputs[0])
        if node.op in ("resize_like", "expand_like"):
            return self._size(node.inputs[1])
        rule, numbers = size_rule(node)
        source = self._size(node.inputs[0])
        return self._emit(self._beside(node, "size"), "size", [source], {"rule": rule, "numbers": numbers})

    # ---------------------------------------------------------------------------------------------- operations

    def _with_kernels(self, node: Node, kept: list[int]) -> None:
        source = node.inputs[0]
        carried = self.carried[source][1] if source in self.carried else []
        reduce = reduce_linear if node.op == "linear" else reduce_conv
        reduced = reduce(node, kept, carried, self.known[source], self.choose)
        self.result.layers.append(reduced.layer)
        if not kept:
            return
        name = self._source(source, reduced.inputs) if reduced.inputs else self._size(source)
        op = "linear" if node.op == "linear" else "conv"
        self.carried[node] = (self._emit(node.name, op, [name], reduced.settings, **reduced.tensors), reduced.outputs)

    def _along(self, node: Node, kept: list[int]) -> tuple[list[int], str]:
        """Return the channels that are kept in the order in which the input carries them, and what carries them."""
        wanted = set(kept)
        order = [channel for channel in self.carried[node.inputs[0]][1] if channel in wanted]
        return order, self._source(node.inputs[0], order)

    def _plain(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        order, source = self._along(node, kept)
        return self._emit(node.name, node.op, [source], node.settings), order

    def _extend(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        order, source = self._along(node, kept)  # what is added is zero, and nobody carries it
        return source, order

    def _take(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        place = {node.settings["channels"][channel]: channel for channel in kept}
        order = [channel for channel in self.carried[node.inputs[0]][1] if channel in place]
        return self._source(node.inputs[0], order), [place[channel] for channel in order]  # another order is free

    def _like(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        order, source = self._along(node, kept)
        return self._emit(node.name, node.op, [source, self._size(node.inputs[1])], node.settings), order

    def _norm(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        order, source = self._along(node, kept)
        settings = node.settings | {"channels": len(order), "affine": "weight" in node.tensors}
        tensors = {key: tensor[order] if tensor.ndim else tensor for key, tensor in node.tensors.items()}
        return self._emit(node.name, node.op, [source], settings, **tensors), order

    def _prelu(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        order, source = self._along(node, kept)
        slopes = node.tensors["weight"]
        own = slopes if len(slopes) == 1 else slopes[order]
        return self._emit(node.name, node.op, [source], {"channels": len(own)}, weight=own), order

    def _average_pool(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        carried = self.carried[node.inputs[0]][1] if node.inputs[0] in self.carried else []
        wanted = set(kept)
        order = [channel for channel in carried if channel in wanted]
        order += sorted(wanted - set(order))
        return self._emit(node.name, node.op, [self._filled(node.inputs[0], order)], node.settings), order

    def _flatten(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        source, start = node.inputs[0], node.settings["start"]
        voxels = node.channels // source.channels if start == 1 else 1
        order, name = self._along(node, sorted({channel // voxels for channel in kept}))
        channels = [channel * voxels + voxel for channel in order for voxel in range(voxels)]
        return self._emit(node.name, node.op, [name], node.settings | {"voxels": voxels}), channels

    def _concat(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        wanted = set(kept)
        first, names, channels = 0, [], []
        for source in node.inputs:
            if source in self.carried:
                own = [channel for channel in self.carried[source][1] if channel + first in wanted]
                if own:
                    names.append(self._source(source, own))
                    channels += [channel + first for channel in own]
            first += source.channels
        return (names[0] if len(names) == 1 else self._emit(node.name, "concat", names, {})), channels

    def _add(self, node: Node, kept: list[int]) -> tuple[str, list[int]]:
        wanted = set(kept)
        given: list[tuple[Node, list[int]]] = []
        for source in node.inputs:
            live = self.known[source].live
            carried = self.carried[source][1] if source in self.carried else []
            given.append((source, [channel for channel in carried if channel in wanted and bool(live[channel])]))
        longest: list[int] = sorted((channels for _, channels in given), key=len)[-1]
        order = [*longest, *sorted(wanted - set(longest))]
        constants = torch.stack([self.known[source].value for source in node.inputs]).sum(0)[order]
        present = [(self._source(source, channels), channels) for source, channels in given if channels]
        shift = bool(constants.any())
        if len(present) == 1:
            name = present[0][0]
            if shift:
                name = self._emit(node.name, "shift", [name], {"channels": len(order)}, shift=constants)
            return name, order
        position = {channel: index for index, channel in enumerate(order)}
        positions = [None if own == order else [position[channel] for channel in own] for _, own in present]
        settings = {"channels": len(order), "positions": positions, "shift": shift}
        tensors = {"shift": constants} if shift else {}
        return self._emit(node.name, "add", [name for name, _ in present], settings, **tensors), order


_RULES: dict[str, Callable[[_Rebuild, Node, list[int]], tuple[str, list[int]]]] = {
    "batch_norm": _Rebuild._norm,
    "instance_norm": _Rebuild._norm,
    "prelu": _Rebuild._prelu,
    "activation": _Rebuild._plain,
    "scale": _Rebuild._plain,
    "dropout": _Rebuild._plain,
    "max_pool": _Rebuild._plain,
    "average_pool": _Rebuild._average_pool,
    "adaptive_pool": _Rebuild._plain,
    "upsample": _Rebuild._plain,
    "extend": _Rebuild._extend,
    "take": _Rebuild._take,
    "reduce": _Rebuild._plain,
    "resize_like": _Rebuild._like,
    "expand_like": _Rebuild._like,
    "flatten": _Rebuild._flatten,
    "add": _Rebuild._add,
    "concat": _Rebuild._concat,
}


def size_rule(node: Node) -> tuple[str, dict[str, Any]]:
    """Return how the size behind an operation follows from the size before it."""
    settings = node.settings
    if node.op in ("conv", "conv_transpose"):
        numbers = {key: settings[key] for key in ("stride", "padding", "dilation")}
        numbers["kernel"] = list(node.tensors["weight"].shape[2:])
        if node.op == "conv":
            return "window", numbers | {"ceil_mode": False}
        return "transposed", numbers | {"output_padding": settings["output_padding"]}
    if node.op in ("max_pool", "average_pool"):
        numbers = {key: settings[key] for key in ("kernel", "stride", "ceil_mode")}
        numbers["dilation"] = settings.get("dilation", [1] * len(settings["kernel"]))
        return "window", numbers | {"padding": [[side, side] for side in settings["padding"]]}
    if node.op == "upsample":
        return "scale", {"scale": settings["scale"]}
    if node.op == "adaptive_pool":
        return "fixed", {"size": settings["size"]}
    if node.op == "flatten" and settings["start"] == 2:
        return "joined", {}
    return "fixed", {"size": [1] * (len(node.shape) - 2)}
