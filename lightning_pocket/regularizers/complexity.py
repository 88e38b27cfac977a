"""Penalties that grow with the network's cost: equations (32), (33) and (34) by lagged weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from .data_flow import DataFlow
from .kernels import CONVOLUTIONS
from .layer import LayerPenalty

ComplexityName = Literal["none", "squared_width", "squared_size", "multiply_adds"]
Lagged = Literal["norms", "alive"]


@dataclass(frozen=True)
class _Cost:
    """What the multiply-adds of a layer depend on beside the width before it and the sizes of its kernels.

    Attributes:
        positions: Places where each kernel is applied.
        fan_in: Channels that each kernel reads.
        taps: Taps of all kernels together, at full size.
    """

    positions: float
    fan_in: float
    taps: float


class Complexity:
    r"""Factors of the groups' weights that turn a sum of norms into a measure of cost.

    Products of norms have no prox of their own. Their derivatives at the weights of the last step, kept fixed, are
    factors of a plain sum, so a point that no longer moves is a stationary point of the equation.

    - ``squared_width`` (32): :math:`\sum_i d_i'^2`; the factor of every kernel of layer :math:`i` is :math:`2 d_i'`.
    - ``squared_size`` (33): :math:`\sum_{ij} s_{ij}'^p`, :math:`p` the number of axes; the factor of kernel :math:`ij`
      is :math:`p\, s_{ij}'^{p-1}`.
    - ``multiply_adds`` (34): :math:`\sum_i r_i c_i d_{i-1}' \sum_j s_{ij}'^p`. The factor of kernel :math:`ij` is
      :math:`r_i c_i d_{i-1}' p\, s_{ij}'^{p-1}`, and its root has :math:`\sum_l r_{i+1} c_{i+1} s_{i+1,l}'^p` on top:
      what the layers that read it spend on it.

    Here :math:`d_i'` is the sum of the norms of the kernels of a layer, :math:`s_{ij}'` that of the groups of a kernel,
    and :math:`r_i c_i` the positions of a layer. Layers that are not penalized keep their width and sizes. Where a
    layer reads several others, concatenated or added, its width is the share of them that is left.

    Args:
        form: One of the three.
        lagged: ``norms``, as above, or ``alive``: numbers of kernels and sizes instead of sums of norms, at least 1 so
            that what is nearly gone can still go.
        layers: What is penalized.
        flow: What reads what.
        network: Holds all layers of ``flow``.
    """

    def __init__(
        self, form: ComplexityName, lagged: Lagged, layers: Sequence[LayerPenalty], flow: DataFlow, network: nn.Module
    ) -> None:
        self.form = form
        self.lagged = lagged
        self.layers = {layer.name: layer for layer in layers}
        self._sources = flow.sources
        modules = {name: network.get_submodule(name) for name in flow.sources}
        self._widths = {name: float(_width(module)) for name, module in modules.items()}
        self._costs = {name: _cost(module, flow.sizes[name]) for name, module in modules.items()}

    @torch.no_grad()
    def factors(self) -> list[Tensor | None]:
        """Return ``(O, N)`` for each layer, None where nothing is multiplied."""
        if self.form == "none":
            return [None] * len(self.layers)
        widths = {name: self._width_left(layer) for name, layer in self.layers.items()}
        if self.form == "squared_width":
            return [
                layer.base_weights.new_ones(layer.conv.out_channels, layer.groups) * 2 * widths[name]
                for name, layer in self.layers.items()
            ]
        found: list[Tensor | None] = []
        sizes = {name: self._sizes_left(layer) for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            power = _axes(layer)
            factor = (power * sizes[name] ** (power - 1))[:, None].repeat(1, layer.groups)
            if self.form == "multiply_adds":
                cost = self._costs[name]
                factor = factor * cost.positions * cost.fan_in * self._share_left(name, widths)
                factor[:, -1] += self._spent_on(name, sizes)
            found.append(factor)
        return found

    def _width_left(self, layer: LayerPenalty) -> Tensor:
        if self.lagged == "alive":
            return (layer.zeros() < layer.groups).sum().clamp_min(1).to(layer.base_weights)
        return (layer.group_norms()[:, -1] * layer.base_weights[-1]).sum()

    def _sizes_left(self, layer: LayerPenalty) -> Tensor:
        if self.lagged == "alive":
            return layer.sizes[layer.zeros()].clamp_min(1).to(layer.base_weights)
        return (layer.group_norms() * layer.base_weights).sum(1)

    def _share_left(self, name: str, widths: dict[str, Tensor]) -> Tensor | float:
        """Return the share of the channels before a layer that is left."""
        sources = self._sources[name]
        if not sources:
            return 1.0
        left = sum(widths.get(source, self._widths[source]) for source in sources)
        return left / sum(self._widths[source] for source in sources)

    def _spent_on(self, name: str, sizes: dict[str, Tensor]) -> Tensor | float:
        """Return what the layers that read ``name`` spend on each unit of its width."""
        spent: Tensor | float = 0.0
        for reader, sources in self._sources.items():
            if name in sources:
                cost = self._costs[reader]
                layer = self.layers.get(reader)
                taps = cost.taps if layer is None else (sizes[reader] ** _axes(layer)).sum()
                spent = spent + cost.positions * cost.fan_in * taps / sum(self._widths[source] for source in sources)
        return spent


def _axes(layer: LayerPenalty) -> int:
    """Return along how many axes a kernel can shrink, at least 1."""
    return max(sum(extent > 1 for extent in layer.levels.shape), 1)


def _width(module: nn.Module) -> int:
    width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    return int(width)  # type: ignore[arg-type]


def _cost(module: nn.Module, size: Sequence[int]) -> _Cost:
    if not isinstance(module, CONVOLUTIONS):
        return _Cost(1.0, float(module.in_features), float(_width(module)))  # type: ignore[arg-type]
    steps = prod(module.stride) if module.transposed else 1  # a transposed one is applied to its input
    taps = module.out_channels * prod(module.kernel_size)
    return _Cost(prod(size) / steps, module.in_channels / module.groups, float(taps))
