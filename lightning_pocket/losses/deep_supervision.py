"""Losses of networks that predict at several resolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError


def deep_supervision_loss(
    logits: Sequence[Tensor], label_BS: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Return the weighted sum of the losses at all resolutions.

    The weights 1, 1/2, 1/4, ... follow the order of ``logits`` and are divided by their sum, so the result has the
    scale of ``loss``.

    Args:
        logits: ``(B, K, *S_i)`` each, the finest resolution first.
        label_BS: ``(B, *S)`` integers at full resolution; see :func:`downsample_label`.
        loss: Maps logits ``(B, K, *S)`` and a label ``(B, *S)`` to a scalar.

    Returns:
        Scalar.

    Raises:
        PocketError: If ``logits`` is empty.

    References:
        Lee et al., Deeply-supervised nets, 2015; the weights are those of nnU-Net, Nature Methods 2021.
    """
    if not logits:
        raise PocketError("logits: found an empty list; give the output of at least one resolution.")
    weights = [0.5**level for level in range(len(logits))]
    losses = [loss(level_BKS, downsample_label(label_BS, level_BKS.shape[2:])) for level_BKS in logits]
    return torch.stack([w / sum(weights) * level for w, level in zip(weights, losses, strict=True)]).sum()


def downsample_label(label_BS: Tensor, size: Sequence[int]) -> Tensor:
    """Return the label with the voxels nearest to the voxel centres of a coarser grid.

    Args:
        label_BS: ``(B, *S)`` integers of any integer type.
        size: Voxels along each spatial axis of the result.

    Returns:
        ``(B, *size)`` of the same type; the same tensor if the size is the same.

    Raises:
        PocketError: If the number of spatial axes differs.
    """
    if len(size) != label_BS.ndim - 1:
        raise PocketError(f"label: found {label_BS.ndim - 1} spatial axes; expected {len(size)} as in the logits.")
    for axis, (fine, coarse) in enumerate(zip(label_BS.shape[1:], size, strict=True), start=1):
        if fine != coarse:
            # Centre of voxel i lies at (i + 1/2) * fine / coarse; integers keep the rounding exact.
            centres = (2 * torch.arange(coarse, device=label_BS.device) + 1) * fine // (2 * coarse)
            label_BS = label_BS.index_select(axis, centres)
    return label_BS
