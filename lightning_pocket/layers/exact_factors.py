"""Weights of expanded layers whose product is a given kernel.

Three factors 1, ``k``, 1 hold any kernel ``w`` as ``(u, u^T w v^T, v)`` where ``u`` has orthonormal rows and ``v``
orthonormal columns, which needs a rate of at least 1. Of a row of kernels of 3 the first moves each input channel to
the corners of its kernel, the layers behind the second do so for each output channel, and the second holds the taps
that lie between: two places along each axis suffice up to ``k = 9``, so 2D needs a rate of 4 and 3D one of 8. Hidden
channels are then mixed by random rotations, so that no weight has a special place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError

from .expanded import Expanded


@torch.no_grad()
def make_exact(layer: Expanded, plain: nn.Module) -> None:
    """Give an expanded layer weights that contract to those of a plain one.

    Args:
        layer: Changed in place.
        plain: What it stands for.

    Raises:
        PocketError: If its layers are too narrow to hold every kernel.
    """
    factors: list[Any] = list(layer.factors)
    given: Any = plain
    if given.weight.is_meta:
        return
    transposed = bool(getattr(layer, "transposed", False))
    groups = int(getattr(layer, "groups", 1))

    def turned(weight: Tensor) -> Tensor:
        return weight.transpose(0, 1) if transposed else weight  # transposed convolutions have their inputs first

    kernels = [turned(part) for part in given.weight.to(torch.float64).chunk(groups)]
    widths = [turned(factor.weight.chunk(groups)[0]).shape[0] for factor in factors[:-1]]
    extents = [tuple(factor.weight.shape[2:]) for factor in factors]
    made = [_factors(kernel, widths, extents) for kernel in kernels]
    for place, factor in enumerate(factors):
        factor.weight.copy_(torch.cat([turned(weights[place]) for weights in made]))
    for factor in factors:
        if factor.bias is not None:
            factor.bias.zero_()
    if given.bias is not None:
        factors[-1].bias.copy_(given.bias)


def _factors(kernel: Tensor, widths: Sequence[int], extents: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Return the weights of a row without groups, in float64.

    Args:
        kernel: ``(N, M, *K)``.
        widths: Channels behind each layer but the last.
        extents: Kernel of each layer.
    """
    if prod(extents[0]) == 1 and len(extents) == 3:
        return _around_the_middle(kernel, widths)
    return _mixed(_corners(kernel, widths, extents))


def _around_the_middle(kernel: Tensor, widths: Sequence[int]) -> list[Tensor]:
    out, each = kernel.shape[:2]
    _check_widths([(widths[0], each), (widths[1], out)])
    columns = _orthonormal(widths[0], each, kernel)
    rows = _orthonormal(widths[1], out, kernel).t()
    middle = torch.einsum("nq,nm...,pm->qp...", rows, kernel, columns)
    ones = (1,) * (kernel.ndim - 2)
    return [columns.reshape(*columns.shape, *ones), middle, rows.reshape(*rows.shape, *ones)]


def _corners(kernel: Tensor, widths: Sequence[int], extents: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Divide the taps of a kernel among shifted copies of the input and output channels."""
    out, each, *size = kernel.shape
    head = [_shifts(first - 1, second) for first, second in zip(extents[0], extents[1], strict=True)]
    reach = [first + second - 1 for first, second in zip(extents[0], extents[1], strict=True)]
    tail = [_shifts(length - covered, covered) for length, covered in zip(size, reach, strict=True)]
    heads, tails = list(product(*head)), list(product(*tail))
    rest = len(extents) > 2
    _check_widths([(widths[0], each * len(heads)), *((width, out * len(tails)) for width in widths[1:])])
    inner = widths[1] if rest else out
    first = kernel.new_zeros(widths[0], each, *extents[0])
    second = kernel.new_zeros(inner, widths[0], *extents[1])
    for index, shift in enumerate(heads):
        spot: Any = (torch.arange(each) * len(heads) + index, torch.arange(each), *shift)
        first[spot] = 1
    for tap in product(*map(range, size)):
        behind, before, place = _divide(tap, tails, heads, extents[1])
        rows = torch.arange(out) * len(tails) + behind
        columns = torch.arange(each) * len(heads) + before
        spot = (rows[:, None], columns[None, :], *place)
        source: Any = (slice(None), slice(None), *tap)
        second[spot] = kernel[source]
    return [first, second, *_moves(kernel, tails, widths, extents)]


def _moves(
    kernel: Tensor, tails: Sequence[tuple[int, ...]], widths: Sequence[int], extents: Sequence[tuple[int, ...]]
) -> list[Tensor]:
    """Return the layers behind the second, which move each channel by its shift and add up those of an output."""
    out = kernel.shape[0]
    left = [list(shift) for shift in tails]
    made = []
    for place in range(2, len(extents)):
        last = place == len(extents) - 1
        layer = kernel.new_zeros(out if last else widths[place], widths[place - 1], *extents[place])
        for index, shift in enumerate(left):
            step = [min(length, extent - 1) for length, extent in zip(shift, extents[place], strict=True)]
            left[index] = [length - taken for length, taken in zip(shift, step, strict=True)]
            source = torch.arange(out) * len(tails) + index
            spot: Any = (torch.arange(out) if last else source, source, *step)
            layer[spot] = 1
        made.append(layer)
    return made


def _divide(
    tap: tuple[int, ...], tails: Sequence[tuple[int, ...]], heads: Sequence[tuple[int, ...]], extent: tuple[int, ...]
) -> tuple[int, int, tuple[int, ...]]:
    """Return the tail, the head and the place in the second kernel that together are at a tap."""
    for (behind, tail), (before, head) in product(enumerate(tails), enumerate(heads)):
        place = tuple(at - a - b for at, a, b in zip(tap, tail, head, strict=True))
        if all(0 <= position < length for position, length in zip(place, extent, strict=True)):
            return behind, before, place
    raise PocketError(f"layers.expansion.init: exact does not reach the tap {tap} of a kernel. Choose factors.")


def _shifts(total: int, step: int) -> list[int]:
    """Return from 0 to ``total`` the fewest shifts no more than ``step`` apart."""
    return sorted({*range(0, total, step), total})


def _mixed(weights: list[Tensor]) -> list[Tensor]:
    """Rotate the channels between two layers, which leaves their product as it is."""
    for before in range(len(weights) - 1):
        first, second = weights[before], weights[before + 1]
        rotation = _orthonormal(len(first), len(first), first)
        weights[before] = torch.einsum("qp,pm...->qm...", rotation, first)
        weights[before + 1] = torch.einsum("np...,qp->nq...", second, rotation)
    return weights


def _orthonormal(rows: int, columns: int, like: Tensor) -> Tensor:
    """Return a random matrix with orthonormal columns, uniformly distributed."""
    normal = torch.randn(rows, columns, dtype=torch.float64, device=like.device)
    matrix, triangle = torch.linalg.qr(normal)
    return matrix * triangle.diagonal().sign()


def _check_widths(pairs: Sequence[tuple[int, int]]) -> None:
    for found, needed in pairs:
        if found < needed:
            raise PocketError(
                f"layers.expansion.init: exact needs {needed} channels between two layers, but there are {found}. "
                "Raise layers.expansion.rate (1 for cl, 4 for ck in 2D, 8 in 3D), keep first_layer at paper, or choose "
                "factors."
            )
