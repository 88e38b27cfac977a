"""The kernel of several convolutions in a row (ExpandNets, Guo et al., NeurIPS 2020, section 3).

With the first convolution ``w1`` and the second ``w2``, torch's cross-correlations compose to

    ``w[o, i, t] = sum over c and a + b = t of w2[o, c, b] * w1[c, i, a]``

as long as the second is not padded and no stride lies before a kernel larger than 1. Taps are counted in steps of the
dilation, which the two share. That is a transposed convolution of one kernel with the other; where one of them has a
single tap, a product of matrices.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

#: By number of axes.
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def compose(first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
    """Return the kernel of one convolution behind another.

    Args:
        first: ``(P, M / groups, *K1)``.
        second: ``(N, P / groups, *K2)``.
        groups: Groups of both, and of the result.

    Returns:
        ``(N, M / groups, *(K1 + K2 - 1))``.
    """
    out, inner, *taps_second = second.shape
    _, each, *taps_first = first.shape
    rows = second.reshape(groups, out // groups, inner, -1)
    columns = first.reshape(groups, inner, -1)
    if prod(taps_second) == 1:
        return torch.bmm(rows.squeeze(-1), columns).reshape(out, each, *taps_first)
    if prod(taps_first) == 1:
        rows = rows.transpose(2, 3).reshape(groups, -1, inner)
        products = torch.bmm(rows, columns).reshape(out, -1, each)
        return products.transpose(1, 2).reshape(out, each, *taps_second)
    stack = rows.transpose(0, 1).reshape(out // groups, groups * inner, *taps_second)
    with _float32_products(stack):
        kernel = _CONV_TRANSPOSE[len(taps_first)](stack, first, groups=groups)
    size = kernel.shape[2:]
    return kernel.reshape(-1, groups, each, *size).transpose(0, 1).reshape(out, each, *size)


def _float32_products(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context in which cuDNN does not round float32 to TF32; a graph that is compiled cannot have one."""
    now = torch.backends.cudnn
    if not tensor.is_cuda or torch.compiler.is_compiling():
        return contextlib.nullcontext()
    try:
        rounds = now.allow_tf32
    except RuntimeError:  # the user has set precisions operator by operator, which torch does not mix with this switch
        rounds = False
    if not rounds:
        return contextlib.nullcontext()
    return now.flags(
        enabled=now.enabled,
        benchmark=now.benchmark,
        benchmark_limit=now.benchmark_limit,
        deterministic=now.deterministic,
        allow_tf32=False,
    )


def contract_kernels(kernels: Sequence[Tensor], groups: int = 1) -> Tensor:
    """Return the kernel of a row of convolutions, multiplied from the end that takes fewer operations.

    Args:
        kernels: One or more of ``(C_out, C_in / groups, *K)``, in the order in which they are applied.
        groups: Groups of all of them.
    """
    shapes = [tuple(kernel.shape) for kernel in kernels]
    return _from_the_left(kernels, groups) if _left(shapes) <= _right(shapes) else _from_the_right(kernels, groups)


def contract_biases(kernels: Sequence[Tensor], biases: Sequence[Tensor | None], groups: int = 1) -> Tensor | None:
    """Return the bias of a row of convolutions, of which the first alone is padded.

    Args:
        kernels: ``(C_out, C_in / groups, *K)``, in the order in which they are applied.
        biases: ``(C_out,)`` of each, None where it has none.
        groups: Groups of all of them.

    Returns:
        ``(C_out,)`` of the last, None where none has a bias.
    """
    total: Tensor | None = None
    for kernel, bias in zip(kernels, biases, strict=True):
        if total is not None:
            sums = kernel.flatten(2).sum(2).reshape(groups, kernel.shape[0] // groups, -1)
            total = torch.bmm(sums, total.reshape(groups, -1, 1)).reshape(-1)
        if bias is not None:
            total = bias if total is None else total + bias
    return total


def contraction_macs(shapes: Sequence[Sequence[int]]) -> int:
    """Return the multiply-accumulates of :func:`contract_kernels`.

    Args:
        shapes: ``(C_out, C_in / groups, *K)`` of the kernels, in the order in which they are applied.
    """
    return min(_left(shapes), _right(shapes))


def _from_the_left(kernels: Sequence[Tensor], groups: int) -> Tensor:
    kernel, *others = kernels
    for other in others:
        kernel = compose(kernel, other, groups)
    return kernel


def _from_the_right(kernels: Sequence[Tensor], groups: int) -> Tensor:
    *others, kernel = kernels
    for other in reversed(others):
        kernel = compose(other, kernel, groups)
    return kernel


def _left(shapes: Sequence[Sequence[int]]) -> int:
    (_, each, *size), *others = shapes
    total = 0
    for out, inner, *taps in others:
        total += out * inner * each * prod(size) * prod(taps)
        size = [a + b - 1 for a, b in zip(size, taps, strict=True)]
    return total


def _right(shapes: Sequence[Sequence[int]]) -> int:
    *others, (out, inner, *size) = shapes
    total = 0
    for _, each, *taps in reversed(others):
        total += out * inner * each * prod(size) * prod(taps)
        inner, size = each, [a + b - 1 for a, b in zip(size, taps, strict=True)]
    return total
