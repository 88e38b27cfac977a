"""The part of a kernel that is not zero: boxes, and which kernels of different boxes are computed together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from math import prod
from typing import Any

import torch
from torch import Tensor

#: First and last tap that is kept, per spatial axis.
Box = tuple[tuple[int, int], ...]


def supports(weight: Tensor) -> list[Box | None]:
    """Return the smallest box that holds every tap other than zero, of each kernel.

    Args:
        weight: ``(O, I, *k)``.

    Returns:
        One box per kernel, None where it is zero.
    """
    taps = (weight != 0).any(1)
    firsts, lasts = [], []
    for axis in range(1, taps.ndim):
        others = [other for other in range(1, taps.ndim) if other != axis]
        line = (taps.any(dim=others) if others else taps).int()
        firsts.append(line.argmax(1))
        lasts.append(line.shape[1] - 1 - line.flip(1).argmax(1))
    boxes = torch.stack([torch.stack(firsts, 1), torch.stack(lasts, 1)], 2).tolist()
    alive = taps.flatten(1).any(1).tolist()
    return [tuple((a, b) for a, b in box) if live else None for box, live in zip(boxes, alive, strict=True)]


def extent(box: Box) -> tuple[int, ...]:
    """Return the taps of a box along each axis."""
    return tuple(last - first + 1 for first, last in box)


def crop(kernel: Tensor, box: Box) -> Tensor:
    """Return the taps of a kernel ``(..., *k)`` inside a box."""
    inside: Any = (..., *(slice(first, last + 1) for first, last in box))
    return kernel[inside]


def cropped_padding(
    padding: Sequence[Sequence[int]], kernel: Sequence[int], dilation: Sequence[int], box: Box
) -> list[list[int]]:
    """Return the padding with which a cropped kernel gives what the whole one gave with ``padding``.

    Args:
        padding: Voxels before and after, per axis; negative ones are cut off.
        kernel: Taps of the whole kernel, per axis.
        dilation: Voxels between two taps, per axis.
        box: Taps that are left.
    """
    return [
        [before - first * step, after - (size - 1 - last) * step]
        for (before, after), size, step, (first, last) in zip(padding, kernel, dilation, box, strict=True)
    ]


def hull(boxes: Iterable[Box]) -> Box:
    """Return the smallest box that holds all of them."""
    return tuple((min(first for first, _ in axis), max(last for _, last in axis)) for axis in zip(*boxes, strict=True))


def centred(box: Box, kernel: Sequence[int]) -> Box:
    """Return the smallest box around another that leaves as many taps before as after it: its padding is symmetric."""
    margins = [min(first, size - 1 - last) for (first, last), size in zip(box, kernel, strict=True)]
    return tuple((margin, size - 1 - margin) for margin, size in zip(margins, kernel, strict=True))


def groupings(kernels: dict[Box, int], kernel: Sequence[int]) -> list[dict[Box, Box]]:
    """Return ways to compute kernels of different boxes together, cheapest in operations first.

    The first keeps every box. Each following one merges the two boxes whose merging adds the fewest operations, down to
    a single box; then come the same with symmetric padding, which needs no copy of the input.

    Args:
        kernels: Number of kernels of each box.
        kernel: Taps of the whole kernel, per axis.

    Returns:
        Box of a kernel -> box that is computed, of each way.
    """
    current = {box: box for box in kernels}
    ways = [dict(current)]
    while len(set(current.values())) > 1:
        counts: dict[Box, int] = {}
        for box, used in current.items():
            counts[used] = counts.get(used, 0) + kernels[box]
        first, second = min(combinations(sorted(counts), 2), key=lambda pair: _added(pair, counts))
        merged = hull([first, second])
        current = {box: merged if used in (first, second) else used for box, used in current.items()}
        ways.append(dict(current))
    ways += [{box: centred(used, kernel) for box, used in way.items()} for way in ways]
    return [way for index, way in enumerate(ways) if way not in ways[:index]]


def _added(pair: tuple[Box, Box], counts: dict[Box, int]) -> int:
    """Return the taps that are computed more when two boxes are merged."""
    merged = prod(extent(hull(pair)))
    return sum(counts[box] * (merged - prod(extent(box))) for box in pair)


def whole(kernel: Sequence[int]) -> Box:
    """Return the box of all taps."""
    return tuple((0, size - 1) for size in kernel)
