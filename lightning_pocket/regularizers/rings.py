r"""Nested groups of a kernel's taps: half-rings and rings, for any number of axes and any extents.

The groups are nested, :math:`G_1 \subset G_2 \subset \dots \subset G_N`, and :math:`G_N` is the whole kernel. What is
left when the first ``n`` of them are zero is always a box, so that the kernel can be cropped to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, repeat
from typing import Literal

import torch
from torch import Tensor

#: First and last tap along each axis, the last one excluded; empty where nothing is left.
Box = tuple[tuple[int, int], ...]
Corner = Literal["top_left", "bottom_right"]


def half_ring_boxes(size: Sequence[int], start: Corner = "top_left") -> list[Box]:
    """Return what is left of a kernel while half-rings are peeled off it: corner-shifted squares of any size.

    An axis is peeled only while it is longer than the size that is to be left, so that ``(3, 3, 1)`` gives
    ``(2, 2, 1)``, ``(1, 1, 1)`` and nothing.

    Args:
        size: Taps along each axis.
        start: Corner that the first half-ring touches; the others alternate. The draft names both and draws neither.

    Returns:
        ``max(size) + 1`` boxes: the whole kernel first, nothing last.

    References:
        Structured sparsity regularizers, equations (18) to (20).
    """
    first = start == "top_left"
    ends = ((not first, first) if step % 2 else (first, not first) for step in range(max(size)))
    return list(_peel(size, ends, 1))


def ring_boxes(size: Sequence[int]) -> list[Box]:
    """Return what is left of a kernel while rings are peeled off it: centred squares, every other size.

    Two taps have no middle, so that an axis of two stays until nothing is left.

    Args:
        size: Taps along each axis.

    Returns:
        ``ceil(max(size) / 2) + 1`` boxes: the whole kernel first, nothing last.

    References:
        Structured sparsity regularizers, section 3.2.
    """
    return list(_peel(size, repeat((True, True)), 2))


def whole_boxes(size: Sequence[int]) -> list[Box]:
    """Return the boxes of the one group that is the whole kernel: all of it, and nothing."""
    return [tuple((0, extent) for extent in size), tuple((0, 0) for _ in size)]


def _peel(
    size: Sequence[int], ends: Iterator[tuple[bool, bool]] | repeat[tuple[bool, bool]], step: int
) -> Iterator[Box]:
    box: Box = tuple((0, extent) for extent in size)
    yield box
    for left, (low, high) in zip(chain(range(max(size) - step, 0, -step), [0]), ends, strict=False):
        box = tuple(
            (begin + low, end - high) if end - begin > max(left, low + high) else (begin, end) for begin, end in box
        )
        yield box if left else tuple((begin, begin) for begin, _ in box)


def tap_levels(boxes: Sequence[Box]) -> Tensor:
    """Return the first group that holds each tap, counted from 0.

    Args:
        boxes: What is left after each group, as the functions above give it.

    Returns:
        Integers of the kernel's shape: 0 is the outermost (half-)ring, ``len(boxes) - 2`` the innermost.
    """
    levels = torch.zeros([end for _, end in boxes[0]], dtype=torch.long)
    for box in boxes[1:-1]:
        levels[tuple(slice(begin, end) for begin, end in box)] += 1
    return levels


def box_extents(boxes: Sequence[Box]) -> Tensor:
    """Return the longest side of each box: the size of a kernel of which that many groups are zero.

    Args:
        boxes: What is left after each group.

    Returns:
        ``(len(boxes),)`` integers, the last one 0.
    """
    return torch.tensor([max(end - begin for begin, end in box) for box in boxes])
