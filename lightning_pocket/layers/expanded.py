"""Layers that are trained as several linear ones and used as one (ExpandNets, Guo et al., NeurIPS 2020)."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .contraction import contract_biases, contract_kernels, contraction_macs
from .expansion import Expansion, chain_kernels

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
#: What the names of the weights of factors have in them.
FACTORS = ".factors."
_APPLY: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d,
    nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}


class Expanded(nn.Module, ABC):
    """A row of linear layers that is one linear layer.

    Args:
        factors: The layers, in the order in which they are applied.
        mode: ``fused`` applies the one layer, ``layers`` the row, ``nonlinear`` the row with a ReLU in between.

    Attributes:
        factors: The same; what is trained.
    """

    def __init__(self, factors: Sequence[nn.Module], mode: Literal["fused", "layers", "nonlinear", "start"]) -> None:
        super().__init__()
        self.factors = nn.ModuleList(factors)
        self.mode = mode

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "fused":
            return self.apply_plain(x, *self.plain_weights())
        for place, factor in enumerate(self.factors):
            x = factor(torch.relu(x) if place and self.mode == "nonlinear" else x)
        return x

    def plain_weights(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the one layer, in torch's layout; gradients flow through them.

        Args:
            dtype: Precision of the products, at least, under autocast too; results have that of the parameters.

        Raises:
            PocketError: If there are nonlinearities in between.
        """
        if self.mode == "nonlinear":
            raise PocketError(
                "layers.expansion.mode: nonlinear layers are not one linear layer, so they cannot be contracted. Train "
                "with fused, which can begin with their weights (--start_from)."
            )
        given = self.like["dtype"]
        precise = torch.promote_types(given, dtype)
        with _without_autocast(self.like["device"].type):
            weights = [factor.weight.to(precise) for factor in self._layers()]
            weight, bias = self.multiply(weights, [_to(factor.bias, precise) for factor in self._layers()])
        return weight.to(given), _to(bias, given)

    @property
    def like(self) -> dict[str, Any]:
        """Device and precision of the parameters, as torch's classes take them."""
        weight = next(self.parameters())
        return {"device": weight.device, "dtype": weight.dtype}

    def _layers(self) -> list[Any]:
        return list(self.factors)

    @abstractmethod
    def multiply(self, weights: list[Tensor], biases: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the one layer from those of the factors."""

    @abstractmethod
    def apply_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return what the one layer with these weights makes of ``x``."""

    @abstractmethod
    def plain(self) -> nn.Module:
        """Return a new layer as this one stands for, with weights of its own."""

    @abstractmethod
    def plain_macs(self, source: Tensor, result: Tensor) -> int:
        """Return the multiply-accumulates of the one layer, from its input to its output."""

    @torch.no_grad()
    def contracted(self) -> nn.Module:
        """Return the one layer, computed in float64 and given in the precision of the parameters.

        Raises:
            PocketError: If there are nonlinearities in between.
        """
        layer: Any = self.plain()
        weight, bias = self.plain_weights(torch.float64)
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
        return layer.train(self.training)

    @property
    def counts_itself(self) -> bool:
        """Whether :meth:`executed_macs` says what a call costs; if not, its factors are called, and say it."""
        return self.mode == "fused"

    def executed_macs(self, source: Tensor, result: Tensor) -> int:
        """Return the multiply-accumulates of a fused call: those of the one layer, and of computing its weight.

        Args:
            source: Its input.
            result: Its output.
        """
        return self.plain_macs(source, result) + contraction_macs(self.shapes())

    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the factors' weights as :func:`contract_kernels` takes them."""


class ExpandedLinear(Expanded):
    """A linear layer as three: to ``r`` times its inputs, to ``r`` times its outputs, to its outputs.

    Args:
        linear: The layer that it stands for; only its size, precision and device matter.
        expansion: How.

    Shape:
        ``(*, in_features) -> (*, out_features)``.
    """

    def __init__(self, linear: nn.Linear, expansion: Expansion) -> None:
        self.in_features, self.out_features = linear.in_features, linear.out_features
        has_bias = linear.bias is not None
        widths = [
            linear.in_features,
            expansion.widened(linear.in_features),
            expansion.widened(linear.out_features),
            linear.out_features,
        ]
        where: dict[str, Any] = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        factors = [
            nn.Linear(before, after, bias=has_bias and (place == 2 or expansion.bias == "all"), **where)
            for place, (before, after) in enumerate(pairwise(widths))
        ]
        super().__init__(factors, expansion.mode)

    @override
    def multiply(self, weights: list[Tensor], biases: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        return contract_kernels(weights), contract_biases([w.unsqueeze(-1) for w in weights], biases)

    @override
    def apply_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @override
    def plain(self) -> nn.Linear:
        has_bias = self._layers()[-1].bias is not None
        return nn.Linear(self.in_features, self.out_features, bias=has_bias, **self.like)

    @override
    def plain_macs(self, source: Tensor, result: Tensor) -> int:
        return result.numel() * self.in_features

    @override
    def shapes(self) -> list[tuple[int, ...]]:
        return [tuple(factor.weight.shape) for factor in self._layers()]


class ExpandedConv(Expanded):
    """A convolution as a row of them: any number of axes, stride, dilation, groups and padding; transposed ones too.

    What makes the row one convolution, at the borders too:

    - the first layer pads, so that the biases of all layers reach what is padded; of transposed convolutions the last
      one crops;
    - the stride is in the middle layer of ``cl`` and in the last of ``ck``, as kernels behind a stride would leave
      gaps; of a transposed ``ck`` it is in the first;
    - all layers have the same groups; those with a kernel the same dilation;
    - transposed convolutions have a bias in the last layer alone: a constant that is spread by a stride is none.

    Args:
        conv: The convolution that it stands for; only its geometry, precision and device matter.
        expansion: How. ``none`` is ``cl`` here.
        widen_first: Whether the first layer makes ``r m`` channels, and not ``m``.

    Shape:
        ``(B, in_channels, *S)`` to what ``conv`` makes of it.

    Raises:
        PocketError: If this convolution cannot be expanded so that the result is exact.
    """

    def __init__(self, conv: nn.Module, expansion: Expansion, *, widen_first: bool = True) -> None:
        self.geometry = _geometry(conv)
        self.padding: str | tuple[int, ...] = conv.padding  # type: ignore[assignment]
        self.kind = type(conv)
        self.transposed = isinstance(conv, TRANSPOSED)
        self.in_channels: int = self.geometry["in_channels"]
        self.out_channels: int = self.geometry["out_channels"]
        self.kernel_size: tuple[int, ...] = self.geometry["kernel_size"]
        self.groups: int = self.geometry["groups"]
        has_bias: bool = self.geometry["bias"]
        if self.transposed and has_bias and expansion.bias == "all" and expansion.mode != "nonlinear":
            raise PocketError(
                "layers.expansion.bias: all, but a bias before a transposed convolution becomes a pattern that no "
                "single bias can represent. Choose last, or leave such layers out with layers.expansion.select."
            )
        kernels = chain_kernels("ck" if expansion.conv == "ck" else "cl", self.kernel_size)
        widths = _widths(self.in_channels, self.out_channels, len(kernels), self.groups, expansion)
        if not widen_first:
            widths[1] = self.in_channels
        where: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        factors = [
            self.kind(
                widths[place],
                widths[place + 1],
                kernel,
                **self._layer(place, len(kernels), kernel, expansion.conv == "ck"),
                bias=has_bias and (place == len(kernels) - 1 or expansion.bias == "all"),
                **where,
            )
            for place, kernel in enumerate(kernels)
        ]
        super().__init__(factors, expansion.mode)

    def _layer(self, place: int, count: int, kernel: tuple[int, ...], ck: bool) -> dict[str, Any]:
        """Return the geometry of one layer of the row."""
        given = self.geometry
        settings: dict[str, Any] = {"groups": self.groups}
        settings["dilation"] = tuple(d if k > 1 else 1 for d, k in zip(given["dilation"], kernel, strict=True))
        strided = (0 if self.transposed else count - 1) if ck else 1
        if place == strided:
            settings["stride"] = given["stride"]
            if self.transposed:  # what is added behind the end is zero, and stays it in the layers that follow
                settings["output_padding"] = given["output_padding"]
                settings["dilation"] = given["dilation"]  # torch allows what is added only below one of the two
        if place == (count - 1 if self.transposed else 0):
            settings |= {"padding": given["padding"], "padding_mode": given["padding_mode"]}
        return settings

    @override
    def multiply(self, weights: list[Tensor], biases: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        if not self.transposed:
            return contract_kernels(weights, self.groups), contract_biases(weights, biases, self.groups)
        # A transposed convolution is the adjoint of the convolution with the same weight, and a row of them that of the
        # reversed row.
        return contract_kernels(weights[::-1], self.groups), biases[-1]

    @override
    def apply_plain(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        given = self.geometry
        apply = _APPLY[self.kind]
        rest = given["groups"], given["dilation"]
        if self.transposed:
            return apply(x, weight, bias, given["stride"], given["padding"], given["output_padding"], *rest)
        if given["padding_mode"] == "zeros":
            return apply(x, weight, bias, given["stride"], given["padding"], *reversed(rest))
        both = [side for size in reversed(given["padding"]) for side in (size, size)]
        return apply(F.pad(x, both, given["padding_mode"]), weight, bias, given["stride"], 0, *reversed(rest))

    @override
    def plain(self) -> nn.Module:
        return self.kind(**self.geometry | {"padding": self.padding}, **self.like)

    @override
    def plain_macs(self, source: Tensor, result: Tensor) -> int:
        taps = prod(self.kernel_size)
        if self.transposed:
            return source.numel() * self.out_channels // self.groups * taps
        return result.numel() * self.in_channels // self.groups * taps

    @override
    def shapes(self) -> list[tuple[int, ...]]:
        found = [tuple(factor.weight.shape) for factor in self._layers()]
        return found[::-1] if self.transposed else found


def _without_autocast(device: str) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if tensor is None else tensor.to(dtype)


def _geometry(conv: Any) -> dict[str, Any]:
    """Return the arguments that make such a convolution, its padding in voxels."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups", "padding_mode")
    given: dict[str, Any] = {name: getattr(conv, name) for name in names}
    given["bias"] = conv.bias is not None
    if isinstance(conv, TRANSPOSED):
        given["output_padding"] = conv.output_padding
    given["padding"] = conv.padding
    if isinstance(conv.padding, str):
        extents = [step * (size - 1) for step, size in zip(conv.dilation, conv.kernel_size, strict=True)]
        if conv.padding == "same" and any(extent % 2 for extent in extents):
            raise PocketError(
                f"layers.expansion: a convolution pads {extents} voxels for its kernel {conv.kernel_size}, on one side "
                "more than on the other. Give it a padding in numbers, or leave it out with layers.expansion.select."
            )
        given["padding"] = tuple(extent // 2 if conv.padding == "same" else 0 for extent in extents)
    return given


def _widths(before: int, after: int, layers: int, groups: int, expansion: Expansion) -> list[int]:
    """Return the channels before, between and after the layers."""
    inner = [expansion.widened(before, groups)] + [expansion.widened(after, groups)] * (layers - 2)
    return [before, *inner, after]
