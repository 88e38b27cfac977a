"""The part of a prediction that windows can still change."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType

import torch
from torch import Tensor

Window = tuple[EllipsisType | slice, ...]  # leading axes whole, then a slice for each spatial axis


class Slab:
    """Running weighted mean of windows, over as many planes of the first spatial axis as a window has.

    Args:
        shape: ``(B, K, planes, *S[1:])``.
        weight: How much each voxel of a window counts, ``(planes, *patch_size[1:])``.
        device: Where the mean is kept.
    """

    def __init__(self, shape: Sequence[int], weight: Tensor, device: torch.device) -> None:
        self.mean = torch.zeros(*shape, device=device)
        self.total = torch.zeros(*shape[2:], device=device)
        self.weight = weight.to(device)

    def add(self, outputs: Sequence[Tensor], windows: Sequence[Window]) -> None:
        """Average the outputs of windows into the slab.

        Args:
            outputs: ``(B, K, *patch_size)`` each.
            windows: Where they lie in the slab.
        """
        for output_BKS, window in zip(outputs, windows, strict=True):
            # All memory is taken before anything changes: where it runs out, this can be done again.
            total = self.total[window] + self.weight
            share = self.weight / total
            self.mean[window].lerp_(output_BKS.to(self.mean), share)
            self.total[window] = total

    def shift(self, planes: int) -> None:
        """Drop the first planes and make room for as many behind the others."""
        for buffer, axis in ((self.mean, 2), (self.total, 0)):
            kept = buffer.narrow(axis, planes, buffer.shape[axis] - planes).clone()
            buffer.zero_().narrow(axis, 0, kept.shape[axis]).copy_(kept)

    def move_to_cpu(self) -> None:
        """Free the memory of the device."""
        self.mean, self.total, self.weight = self.mean.cpu(), self.total.cpu(), self.weight.cpu()
