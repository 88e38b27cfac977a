"""Which channels of every result are alive, and what constant the others are.

A channel is *dead* where it has the same value at every voxel of every image of any size: that of a kernel of zeros,
and of all that is computed from such channels alone. Its value is known exactly: behind a batch norm it is
``gamma (0 - mean) / sqrt(var + eps) + beta``, behind an instance norm ``beta``. A channel that a zero-padded kernel
computes from constants is not constant near the border; it is alive, but does not *vary* from image to image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError

from .activations import make_activation
from .graph import Graph, Node
from .kernels import WITH_KERNELS, Kernels, by_group


@dataclass(frozen=True)
class Channels:
    """What is known of the channels of a result.

    Args:
        live: ``(C,)``, whether it is not a constant.
        varies: ``(C,)``, whether it depends on the image.
        value: ``(C,)`` float64, the constant of dead channels, 0 of the others.
    """

    live: Tensor
    varies: Tensor
    value: Tensor

    def then(self, value: Tensor) -> Channels:
        """Return the same channels with other constants, in which live ones are 0."""
        return Channels(self.live, self.varies, torch.where(self.live, 0.0, value.double()))


def find_channels(graph: Graph) -> dict[Node, Channels]:
    """Return what is known of the channels of every result.

    Raises:
        PocketError: If an output no longer depends on the image, because a layer that has no way around it has no
            kernel left.
    """
    known: dict[Node, Channels] = {}
    with torch.no_grad():
        for node in graph.nodes:
            known[node] = _RULES[node.op](node, *(known[source] for source in node.inputs))
    for output in graph.outputs:
        if not known[output].varies.any():
            _refuse_if_killed(output, known)
    return known


def needed_channels(graph: Graph, known: dict[Node, Channels]) -> dict[Node, Tensor]:
    """Return for every result which of its live channels ``(C,)`` somebody reads."""
    needed = {node: torch.zeros(node.channels, dtype=torch.bool) for node in graph.nodes}
    for output in graph.outputs:
        needed[output] |= known[output].live
    for node in reversed(graph.nodes):
        wanted = needed[node] & known[node].live
        if not wanted.any():
            continue
        for index, source in enumerate(node.inputs):
            needed[source] |= _wanted_of(node, index, wanted) & known[source].live
    for node in graph.nodes:
        if node.op == "input":
            needed[node] = torch.ones_like(needed[node])
    return needed


def pads_average(node: Node) -> bool:
    """Tell whether average pooling counts zeros around the image."""
    return bool(node.settings["count_include_pad"]) and any(node.settings["padding"])


def _refuse_if_killed(output: Node, known: dict[Node, Channels]) -> None:
    """Raise an error where a layer on the way to an output has no kernel left."""
    way, pending = set(), [output]
    while pending:
        node = pending.pop()
        if node not in way:
            way.add(node)
            pending += node.inputs
    for node in known:  # in order: the first of them is to blame
        killed = node.op in WITH_KERNELS and known[node.inputs[0]].varies.any() and not known[node].varies.any()
        if node in way and killed:
            raise PocketError(
                f"{node.name}: has no kernel left, so that {output.name} no longer depends on the image. Keep at least "
                "one kernel: train with a smaller alpha, or give a smaller --tau."
            )


def _wanted_of(node: Node, index: int, wanted: Tensor) -> Tensor:
    """Return which channels of input ``index`` an operation reads for the channels that are wanted of it."""
    if node.op in WITH_KERNELS:
        return Kernels(node).read_inputs(wanted)
    if node.op == "concat":
        first = sum(source.channels for source in node.inputs[:index])
        return wanted[first : first + node.inputs[index].channels]
    if node.op == "flatten" and node.settings["start"] == 1:
        return by_group(wanted, node.inputs[0].channels).any(1)
    if node.op == "extend":
        return wanted[: node.inputs[0].channels]
    if node.op == "take":
        read = torch.zeros(node.inputs[0].channels, dtype=torch.bool)
        read[node.settings["channels"]] = wanted
        return read
    if node.op == "zeros" or (node.op in ("resize_like", "expand_like") and index == 1):
        return torch.zeros(node.inputs[index].channels, dtype=torch.bool)  # only the size is looked at
    return wanted


def _image(node: Node) -> Channels:
    every = torch.ones(node.channels, dtype=torch.bool)
    return Channels(every, every, torch.zeros(node.channels, dtype=torch.float64))


def _kernels(node: Node, source: Channels) -> Channels:
    kernels = Kernels(node)
    live = (kernels.reads & kernels.spread(source.live)).any(1)
    varies = (kernels.reads & kernels.spread(source.varies)).any(1)
    constant, border = kernels.answer(source.value)
    live = live | border.flatten(1).any(1) if border.ndim > 1 else live
    return Channels(live, varies, torch.zeros_like(constant)).then(kernels.bias.double() + constant)


def _batch_norm(node: Node, source: Channels) -> Channels:
    scale, shift = batch_norm_factors(node)
    return source.then(source.value * scale + shift)


def batch_norm_factors(node: Node) -> tuple[Tensor, Tensor]:
    """Return what a batch norm multiplies each channel by in evaluation, and what it adds then; ``(C,)`` float64."""
    tensors = {name: tensor.detach().double() for name, tensor in node.tensors.items()}
    scale = (tensors["running_var"] + node.settings["eps"]).rsqrt()
    if "weight" in tensors:
        scale = scale * tensors["weight"]
    return scale, tensors.get("bias", 0.0) - tensors["running_mean"] * scale


def _instance_norm(node: Node, source: Channels) -> Channels:
    bias = node.tensors.get("bias")
    return source.then(torch.zeros_like(source.value) if bias is None else bias.detach())


def _prelu(node: Node, source: Channels) -> Channels:
    slope = node.tensors["weight"].detach().double()
    return source.then(torch.where(source.value < 0, slope * source.value, source.value))


def _activation(node: Node, source: Channels) -> Channels:
    return source.then(make_activation(node.settings["kind"], node.settings["arguments"])(source.value))


def _scale(node: Node, source: Channels) -> Channels:
    return source.then(source.value * node.settings["factor"])


def _same(_: Node, source: Channels, *__: Channels) -> Channels:
    return source


def _average_pool(node: Node, source: Channels) -> Channels:
    if not pads_average(node):
        return source
    return Channels(source.live | (source.value != 0), source.varies, torch.zeros_like(source.value))


def _flatten(node: Node, source: Channels) -> Channels:
    if node.settings["start"] == 2:
        return source
    voxels = node.channels // len(source.live)
    return Channels(*(field.repeat_interleave(voxels) for field in (source.live, source.varies, source.value)))


def _extend(node: Node, source: Channels) -> Channels:
    fields = (source.live, source.varies, source.value)
    return Channels(*(torch.cat([field, field.new_zeros(node.channels - len(field))]) for field in fields))


def _take(node: Node, source: Channels) -> Channels:
    return Channels(*(field[node.settings["channels"]] for field in (source.live, source.varies, source.value)))


def _zeros(node: Node, _: Channels) -> Channels:
    none = torch.zeros(node.channels, dtype=torch.bool)
    return Channels(none, none, torch.zeros(node.channels, dtype=torch.float64))


def _add(_: Node, *sources: Channels) -> Channels:
    live = torch.stack([source.live for source in sources]).any(0)
    varies = torch.stack([source.varies for source in sources]).any(0)
    return Channels(live, varies, live.double()).then(torch.stack([source.value for source in sources]).sum(0))


def _concat(_: Node, *sources: Channels) -> Channels:
    return Channels(
        torch.cat([source.live for source in sources]),
        torch.cat([source.varies for source in sources]),
        torch.cat([source.value for source in sources]),
    )


_RULES: dict[str, Callable[..., Channels]] = {
    "input": _image,
    "conv": _kernels,
    "conv_transpose": _kernels,
    "linear": _kernels,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "prelu": _prelu,
    "activation": _activation,
    "scale": _scale,
    "dropout": _same,
    "max_pool": _same,
    "average_pool": _average_pool,
    "adaptive_pool": _same,
    "upsample": _same,
    "resize_like": _same,
    "reduce": _same,
    "expand_like": _same,
    "flatten": _flatten,
    "zeros": _zeros,
    "extend": _extend,
    "take": _take,
    "add": _add,
    "concat": _concat,
}
