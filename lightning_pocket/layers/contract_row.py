"""One layer of several torch layers in a row, where that is exact at every voxel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError

from .contraction import contract_biases, contract_kernels
from .expanded import CONVS, TRANSPOSED

_WHAT = "a row of layers to contract"


@torch.no_grad()
def contract_row(layers: Sequence[nn.Module]) -> nn.Module:
    """Return the one layer that does what linear layers do one after another.

    For rows made elsewhere: :class:`~.expanded.Expanded` only makes such as can be contracted, and contracts itself.

    Args:
        layers: Linear layers, or convolutions, or transposed convolutions with pointwise ones before and after.

    Returns:
        A linear layer, a convolution or a transposed convolution; computed in float64.

    Raises:
        PocketError: If there is no such layer: something is not linear, a border would differ, or a kernel have gaps.
    """
    row: list[Any] = list(layers)
    kind = _kind(row)
    like: dict[str, Any] = {"device": row[0].weight.device, "dtype": row[0].weight.dtype}
    has_bias = any(layer.bias is not None for layer in row)
    if kind is nn.Linear:
        made: Any = nn.Linear(row[0].in_features, row[-1].out_features, has_bias, **like)
        _fill(made, [layer.weight for layer in row], [layer.bias for layer in row], 1)
        return made
    if len({layer.groups for layer in row}) > 1:
        raise PocketError(f"{_WHAT}: found groups {[layer.groups for layer in row]}; expected the same in all.")
    geometry = _transposed_geometry(row) if kind in TRANSPOSED else _geometry(row)
    weights = [layer.weight if type(layer) in CONVS else _adjoint(layer) for layer in row]
    made = kind(
        row[0].in_channels,
        row[-1].out_channels,
        bias=has_bias,
        groups=row[0].groups,
        **geometry,
        **like,
    )
    _fill(made, weights, [layer.bias for layer in row], row[0].groups)
    return made.train(row[0].training)


def _kind(row: Sequence[Any]) -> type[nn.Module]:
    """Return the class of the one layer, or refuse what is none."""
    if not row:
        raise PocketError(f"{_WHAT}: found none, expected at least one.")
    found = [kind for kinds in (TRANSPOSED, CONVS, (nn.Linear,)) for kind in map(type, row) if kind in kinds]
    for layer in row:
        beside = bool(found) and found[0] in TRANSPOSED and type(layer) in CONVS and _is_pointwise(layer)
        if not found or (type(layer) is not found[0] and not beside):
            raise PocketError(
                f"{_WHAT}: found {', '.join(type(x).__name__ for x in row)}; expected layers of one kind, without "
                "norms or activations, with pointwise convolutions beside transposed ones."
            )
    return found[0]


def _fill(made: Any, weights: Sequence[Tensor], biases: Sequence[Tensor | None], groups: int) -> None:
    """Compute the weights of the one layer; ``weights`` have outputs first, also those of transposed layers."""
    precise = [weight.double() for weight in weights]
    kernel = contract_kernels(precise, groups)
    if type(made) in TRANSPOSED:
        kernel = _swapped(kernel, groups)
    made.weight.copy_(kernel)
    kernels = [weight.reshape(*weight.shape[:2], -1) for weight in precise]
    total = contract_biases(kernels, [None if bias is None else bias.double() for bias in biases], groups)
    if total is not None:
        made.bias.copy_(total)


def _adjoint(layer: Any) -> Tensor:
    return _swapped(layer.weight, layer.groups)


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Exchange the input and output channels of each group."""
    return torch.cat([part.transpose(0, 1) for part in weight.chunk(groups)])


def _geometry(row: Sequence[Any]) -> dict[str, Any]:
    """Return the geometry of a row of convolutions, or refuse it."""
    padding, mode = row[0].padding, row[0].padding_mode
    for before, layer in enumerate(row[1:], start=1):
        if not _any(layer.padding):
            continue
        earlier = row[:before]
        if any(not _is_pointwise(x) or _any(x.padding) for x in earlier):
            raise PocketError(
                f"{_WHAT}: layer {before + 1} pads what earlier kernels have made, which differs at "
                "the border from padding the input. Pad in the first layer alone, by the sum."
            )
        if layer.padding_mode == "zeros" and any(x.bias is not None for x in earlier):
            raise PocketError(
                f"{_WHAT}: layer {before + 1} pads with zeros behind a bias, which the border would "
                "then lack. Pad in the first layer, or leave out the bias before the padding."
            )
        padding, mode = layer.padding, layer.padding_mode
    _check_strides(row)
    return {
        "kernel_size": _kernel_size(row),
        "stride": _product([x.stride for x in row]),
        "dilation": _dilation(row),
        "padding": padding,
        "padding_mode": mode,
    }


def _transposed_geometry(row: Sequence[Any]) -> dict[str, Any]:
    """Return the geometry of a row of transposed convolutions, or refuse it: what is first there is last here."""
    axes = range(len(row[0].kernel_size))
    for place, layer in enumerate(row):
        later = row[place + 1 :]
        if _any(layer.padding) and any(not _is_pointwise(x) for x in later):
            raise PocketError(
                f"{_WHAT}: layer {place + 1} crops before later kernels, which differs at the border "
                "from cropping the result. Crop in the last layer alone."
            )
        if layer.bias is not None and any(not _is_pointwise(x) for x in later):
            raise PocketError(
                f"{_WHAT}: layer {place + 1} has a bias before a transposed convolution, which makes "
                "of it a pattern that no single bias can represent. Leave it out."
            )
    _check_strides(row[::-1])
    added = [getattr(x, "output_padding", (0,) * len(axes)) for x in row]
    return {
        "kernel_size": _kernel_size(row),
        "stride": _product([x.stride for x in row]),
        "dilation": _dilation(row),
        "padding": tuple(sum(x.padding[axis] for x in row) for axis in axes),
        "output_padding": tuple(sum(one[axis] for one in added) for axis in axes),
    }


def _check_strides(row: Sequence[Any]) -> None:
    for place, (layer, after) in enumerate(pairwise(row), start=1):
        gaps = [
            axis
            for axis, stride in enumerate(layer.stride)
            if stride > 1 and any(x.kernel_size[axis] > 1 for x in row[place:])
        ]
        if gaps:
            raise PocketError(
                f"{_WHAT}: a {type(after).__name__} with a kernel above 1 follows a stride of {layer.stride}, so that "
                "the kernel of both would be larger and have gaps. Give the stride to the last layer with a kernel "
                "above 1; of transposed convolutions to the first."
            )


def _dilation(row: Sequence[Any]) -> tuple[int, ...]:
    found = []
    for axis in range(len(row[0].kernel_size)):
        steps = {layer.dilation[axis] for layer in row if layer.kernel_size[axis] > 1}
        steps = steps or {max(layer.dilation[axis] for layer in row)}
        if len(steps) > 1:
            raise PocketError(
                f"{_WHAT}: found dilations {[layer.dilation for layer in row]}; kernels above 1 must "
                "share one along each axis."
            )
        found.append(steps.pop())
    return tuple(found)


def _kernel_size(row: Sequence[Any]) -> tuple[int, ...]:
    axes = range(len(row[0].kernel_size))
    return tuple(1 + sum(layer.kernel_size[axis] - 1 for layer in row) for axis in axes)


def _product(strides: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    total = [1] * len(strides[0])
    for stride in strides:
        total = [a * b for a, b in zip(total, stride, strict=True)]
    return tuple(total)


def _is_pointwise(layer: Any) -> bool:
    return max(layer.kernel_size) == 1 and max(layer.stride) == 1


def _any(padding: str | tuple[int, ...]) -> bool:
    return padding == "same" or (not isinstance(padding, str) and any(padding))
