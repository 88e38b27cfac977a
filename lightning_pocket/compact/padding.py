"""Padding that may be negative: what is cut off instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F


def pad(x: Tensor, pads: Sequence[Sequence[int]], mode: str) -> Tensor:
    """Pad ``(B, C, *S)``, or cut it off where the padding is negative.

    Args:
        x: What to pad.
        pads: ``[before, after]`` of each axis.
        mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.
    """
    grown = [max(side, 0) for axis in reversed(pads) for side in axis]
    if any(grown):  # first: what is cut off may be longer than the image
        x = F.pad(x, grown) if mode == "zeros" else F.pad(x, grown, mode=mode)
    kept = [
        slice(max(-before, 0), length - max(-after, 0))
        for (before, after), length in zip(pads, x.shape[2:], strict=True)
    ]
    inside: Any = (..., *kept)
    return x[inside]
