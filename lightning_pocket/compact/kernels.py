"""The kernels of a layer in one form, whatever the layer: one per output channel, over the channels of its group."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .graph import Node
from .supports import cropped_padding, supports

#: Operations that have kernels.
WITH_KERNELS = ("conv", "conv_transpose", "linear")


class Kernels:
    """The kernels of a convolution, a transposed convolution or a linear layer.

    Args:
        node: The layer.

    Attributes:
        weight: ``(O, I / groups, *k)``, of a linear layer ``(O, I)``. Kernel ``o`` reads the input channels of group
            ``o // (O / groups)``.
        bias: ``(O,)``, zeros where the layer has none.
        groups: Number of groups.
        reads: ``(O, I / groups)``, whether a kernel has a tap other than zero for a channel.
    """

    def __init__(self, node: Node) -> None:
        self.node = node
        self.groups = int(node.settings.get("groups", 1))
        weight = node.tensors["weight"].detach()
        if node.op == "conv_transpose":  # stored as (I, O / groups, *k)
            weight = by_group(weight, self.groups).transpose(1, 2).flatten(0, 1)
        self.weight = weight
        bias = node.tensors.get("bias")
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias.detach()
        self.reads = (weight != 0).flatten(2).any(2) if weight.ndim > 2 else weight != 0

    def group(self, output: int) -> int:
        """Return the group of an output channel."""
        return output // (len(self.weight) // self.groups)

    def inputs_by_group(self, inputs: Iterable[int]) -> dict[int, list[int]]:
        """Return the input channels of each group that has some."""
        found: dict[int, list[int]] = {}
        for channel in inputs:
            found.setdefault(channel // self.weight.shape[1], []).append(channel)
        return found

    def spread(self, of_inputs: Tensor) -> Tensor:
        """Return for each kernel what is said of the channels it may read.

        Args:
            of_inputs: ``(I,)``.

        Returns:
            ``(O, I / groups)``.
        """
        per_group = by_group(of_inputs, self.groups)
        return per_group.repeat_interleave(len(self.weight) // self.groups, dim=0)

    def answer(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the kernels answer to channels that are constant over the image, in two summands.

        Args:
            values: ``(I,)`` constant of each input channel, 0 of those that are not constant.

        Returns:
            ``(O,)`` float64, what is added to every voxel; and ``(O, *k)`` float64, kernels over one channel of ones
            whose answer is added, zero but for those that see fewer voxels near a border.
        """
        merged = self._merged(values)
        constant = merged.reshape(len(merged), -1).sum(1)
        differs = self._sees_border(merged)
        border = merged * differs.reshape(-1, *[1] * (merged.ndim - 1))
        return torch.where(differs, 0.0, constant), border

    def _merged(self, values: Tensor) -> Tensor:
        if not values.any():
            return torch.zeros(len(self.weight), *self.weight.shape[2:], dtype=torch.float64)
        constants = self.spread(values)
        used = constants.any(0) if self.groups == 1 else torch.ones(constants.shape[1], dtype=torch.bool)
        weight = self.weight[:, used].double()
        constants = constants[:, used]
        return (weight * constants.reshape(*constants.shape, *[1] * (weight.ndim - 2))).sum(1)

    def _sees_border(self, merged: Tensor) -> Tensor:
        """Return which kernels over one channel of ones answer otherwise near a border; ``(O,)``."""
        settings = self.node.settings
        if self.node.op == "conv_transpose":
            return merged.flatten(1).any(1)
        if self.node.op == "linear" or settings["mode"] != "zeros":
            return torch.zeros(len(merged), dtype=torch.bool)
        padding, dilation, taps = settings["padding"], settings["dilation"], merged.shape[1:]
        return torch.tensor(
            [
                box is not None
                and any(side > 0 for sides in cropped_padding(padding, taps, dilation, box) for side in sides)
                for box in supports(merged[:, None])
            ]
        )

    def read_inputs(self, outputs: Tensor) -> Tensor:
        """Return the input channels that some kernels read.

        Args:
            outputs: ``(O,)``, which kernels.

        Returns:
            ``(I,)``.
        """
        chosen = self.reads & outputs[:, None]
        return by_group(chosen, self.groups).any(1).flatten()


def by_group(tensor: Tensor, groups: int) -> Tensor:
    """Return ``(groups, N / groups, ...)`` of ``(N, ...)``."""
    return tensor.reshape(groups, -1, *tensor.shape[1:])
