"""Reduce the layers that have kernels: keep kernels, crop them, and drop the channels that nobody has left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .convolution import is_plain
from .graph import Node
from .kernels import Kernels
from .liveness import Channels
from .supports import Box, crop, cropped_padding, extent, groupings, hull, supports, whole

#: Told the settings of the ways to compute a layer, cheapest in operations first, its input's shape ``(C, *S)``:
#: returns the number of the one to take.
Choose = Callable[[Sequence[dict[str, Any]], tuple[int, ...]], int]


@dataclass(frozen=True)
class Layer:
    """What became of a layer with kernels.

    Args:
        name: Path of its module.
        kernels: Number of kernels before and after.
        sizes: Extent of a kernel that is left, along each axis -> how many have it.
        parameters: Number of weights and biases before and after.
        taps: Products that one output voxel of one image needs (for a transposed convolution, one input voxel), over
            all kernels that are left, each of its own size and on the channels that are left: equation (10) of the
            structured sparsity paper without the size of the feature map.
        voxels: Number of such voxels for the image that was traced.
    """

    name: str
    kernels: tuple[int, int]
    sizes: Counter[tuple[int, ...]]
    parameters: tuple[int, int]
    taps: tuple[int, int]
    voxels: int


@dataclass
class Reduced:
    """A reduced layer.

    Args:
        inputs: Channels that it reads, in order.
        outputs: Channels that it gives, in order.
        settings: Of its step.
        tensors: Its weights.
        layer: For the report.
    """

    inputs: list[int]
    outputs: list[int]
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    layer: Layer


@dataclass(frozen=True)
class _Block:
    """Kernels of one box that read the same channels.

    Args:
        inputs: Channels that they read.
        outputs: Their numbers.
        box: Taps that are computed.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    box: Box


@dataclass
class _Plan:
    """A layer on its way: what is common to all ways to compute it."""

    kernels: Kernels
    inputs: list[int]
    moving: list[int]
    boxes: dict[int, Box]
    bias: Tensor
    free: list[int]


def reduce_linear(node: Node, kept: list[int], carried: list[int], source: Channels, choose: Choose) -> Reduced:
    """Return a linear layer with the outputs that are kept, on the channels that its input carries."""
    del choose
    kernels = Kernels(node)
    outputs = torch.tensor(kept, dtype=torch.long)
    read = (kernels.reads[outputs] & source.live).any(0)
    inputs = [channel for channel in carried if bool(read[channel])]
    weight = kernels.weight[outputs][:, inputs]
    bias = (kernels.bias.double() + kernels.answer(source.value)[0])[outputs]
    has_bias = "bias" in node.tensors or bool(bias.any())
    tensors = {"weight": weight} | ({"bias": bias} if has_bias else {})
    layer = Layer(
        node.name,
        (len(kernels.weight), len(kept)),
        Counter(),
        (_stored(node), sum(tensor.numel() for tensor in tensors.values()) if kept else 0),
        (kernels.weight.numel(), weight.numel()),
        1,
    )
    return Reduced(inputs, kept, {"in": len(inputs), "out": len(kept), "bias": has_bias}, tensors, layer)


def reduce_conv(node: Node, kept: list[int], carried: list[int], source: Channels, choose: Choose) -> Reduced:
    """Return a convolution or transposed convolution with the kernels that are kept.

    Args:
        node: The layer.
        kept: Its outputs that are read.
        carried: Live channels that its input carries, in order.
        source: What is known of its input.
        choose: Decides between ways to compute kernels of different sizes.
    """
    plan = _plan(node, kept, carried, source)
    constant, border = plan.kernels.answer(source.value)
    plan.bias = plan.bias + constant
    has_border = bool(border[kept].any())
    has_bias = "bias" in node.tensors or bool(plan.bias[kept].any())
    ways = [_blocks(plan, way) for way in _ways(plan, node)]
    forms = [_settings(node, plan, blocks, has_bias) for blocks in ways]
    number = choose(forms, (len(plan.inputs), *node.inputs[0].shape[2:])) if len(forms) > 1 else 0
    blocks, settings = ways[number], forms[number]
    outputs = [output for part in blocks for block in part for output in block.outputs] + plan.free
    tensors = _part_tensors(node, plan, blocks)
    if has_border:
        settings["border"], tensors["border.conv.weight"] = _border(node, border[outputs])
    if has_bias:
        tensors |= _biases(plan.bias, blocks, outputs, has_border)
    if is_plain(settings):
        tensors = {key.removeprefix("parts.0."): tensor for key, tensor in tensors.items()}
    return Reduced(plan.inputs, outputs, settings, tensors, _layer(node, plan, kept, tensors))


def _plan(node: Node, kept: list[int], carried: list[int], source: Channels) -> _Plan:
    kernels = Kernels(node)
    reads = kernels.reads & kernels.spread(source.live)
    moving = [output for output in kept if bool(reads[output].any())]
    chosen = torch.zeros(len(kernels.weight), dtype=torch.bool)
    chosen[moving] = True
    read = kernels.read_inputs(chosen) & source.live
    inputs = [channel for channel in carried if bool(read[channel])]
    if kernels.groups > 1:
        inputs.sort(key=lambda channel: channel // reads.shape[1])
    full = whole(kernels.weight.shape[2:])
    boxes: dict[int, Box] = dict.fromkeys(moving, full)
    if node.op == "conv":
        seen = kernels.weight * reads.reshape(*reads.shape, *[1] * len(full))
        boxes = {output: box for output, box in enumerate(supports(seen)) if box is not None and chosen[output]}
    free = [output for output in kept if not chosen[output]]
    return _Plan(kernels, inputs, moving, boxes, kernels.bias.double(), free)


def _ways(plan: _Plan, node: Node) -> list[dict[Box, Box]]:
    """Return which box is computed for which, in every way that is worth a thought."""
    if not plan.moving:
        return [{}]
    if node.op == "conv_transpose":
        return [{box: box for box in plan.boxes.values()}]
    return groupings(dict(Counter(plan.boxes.values())), plan.kernels.weight.shape[2:])


def _blocks(plan: _Plan, way: dict[Box, Box]) -> list[list[_Block]]:
    """Return the convolutions that compute a layer, each as the groups that it has."""
    found: dict[tuple[int, Box], list[int]] = {}
    for output in plan.moving:
        found.setdefault((plan.kernels.group(output), way[plan.boxes[output]]), []).append(output)
    inside = plan.kernels.inputs_by_group(plan.inputs)
    parts: dict[tuple[int, int, Box], list[_Block]] = {}
    for (group, box), outputs in found.items():
        inputs = tuple(inside[group])
        block = _Block(inputs, tuple(outputs), box)
        key = (len(inputs), len(outputs), box)
        parts.setdefault(key, []).append(block)
    return list(parts.values())


def _settings(node: Node, plan: _Plan, parts: list[list[_Block]], bias: bool) -> dict[str, Any]:
    position = {channel: index for index, channel in enumerate(plan.inputs)}
    every = list(range(len(plan.inputs)))
    taps = list(plan.kernels.weight.shape[2:])
    described = []
    for blocks in parts:
        read = [position[channel] for block in blocks for channel in block.inputs]
        box = blocks[0].box
        padding = node.settings["padding"]
        described.append(
            {
                "select": None if read == every else read,
                "groups": len(blocks),
                "in": len(read),
                "out": sum(len(block.outputs) for block in blocks),
                "kernel": list(extent(box)),
                "padding": cropped_padding(padding, taps, node.settings["dilation"], box),
            }
        )
    return {
        "parts": described,
        "free": len(plan.free),
        "bias": bias,
        "border": None,
        "stride": node.settings["stride"],
        "dilation": node.settings["dilation"],
        "output_padding": node.settings.get("output_padding"),
        "mode": node.settings.get("mode", "zeros"),
    }


def _part_tensors(node: Node, plan: _Plan, parts: list[list[_Block]]) -> dict[str, Tensor]:
    weight, size = plan.kernels.weight, plan.kernels.weight.shape[1]
    tensors = {}
    for index, blocks in enumerate(parts):
        pieces = []
        for block in blocks:
            own = crop(weight[list(block.outputs)][:, [channel % size for channel in block.inputs]], block.box)
            pieces.append(own.transpose(0, 1) if node.op == "conv_transpose" else own)
        tensors[f"parts.{index}.weight"] = torch.cat(pieces)
    return tensors


def _border(node: Node, merged: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Return the settings and the kernels over one channel of ones."""
    taps = list(merged.shape[1:])
    present = [box for box in supports(merged[:, None]) if box is not None]
    box = hull(present) if present and node.op == "conv" else whole(taps)
    kernel = crop(merged[:, None], box)
    padding = cropped_padding(node.settings["padding"], taps, node.settings["dilation"], box)
    settings = {"kernel": list(extent(box)), "padding": padding}
    return settings, kernel.transpose(0, 1) if node.op == "conv_transpose" else kernel


def _biases(bias: Tensor, parts: list[list[_Block]], outputs: list[int], border: bool) -> dict[str, Tensor]:
    if border:
        return {"border.conv.bias": bias[outputs]}
    of_parts = ([output for block in blocks for output in block.outputs] for blocks in parts)
    return {f"parts.{index}.bias": bias[own] for index, own in enumerate(of_parts)}


def _layer(node: Node, plan: _Plan, kept: list[int], tensors: dict[str, Tensor]) -> Layer:
    inside = plan.kernels.inputs_by_group(plan.inputs)
    read = [len(inside[plan.kernels.group(output)]) for output in plan.moving]
    sizes = [extent(plan.boxes[output]) for output in plan.moving]
    carrier = node.inputs[0] if node.op == "conv_transpose" else node
    return Layer(
        node.name,
        (len(plan.kernels.weight), len(plan.moving)),
        Counter(sizes),
        (_stored(node), sum(tensor.numel() for tensor in tensors.values()) if kept else 0),
        (plan.kernels.weight.numel(), sum(count * prod(size) for count, size in zip(read, sizes, strict=True))),
        prod(carrier.shape[2:]),
    )


def _stored(node: Node) -> int:
    return sum(tensor.numel() for tensor in node.tensors.values())
