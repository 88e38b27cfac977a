"""How much each voxel of a window counts where windows overlap."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError


def gaussian_importance(patch_size: Sequence[int], sigma_scale: float = 0.125, minimum: float = 1e-12) -> Tensor:
    """Return a Gaussian that trusts the centre of a window most.

    It is what blurring an impulse at voxel ``n // 2`` of each axis gives, scaled to a maximum of 1, in closed form:
    the outer product of ``exp(-(i - n // 2)**2 / (2 * sigma**2))`` over the axes, with ``sigma = sigma_scale * n``.

    Args:
        patch_size: Voxels of a window along each spatial axis.
        sigma_scale: Standard deviation as a fraction of the window; 1/8 is that of PocketNet and nnU-Net.
        minimum: Smallest weight, so that every voxel counts. The smallest weight of a volume with the default
            ``sigma_scale`` is ``exp(-24) = 3.8e-11``, which is above it.

    Returns:
        ``(*patch_size)`` float32 in [minimum, 1].

    Raises:
        PocketError: If a size is below 1, or ``sigma_scale`` or ``minimum`` is not above 0.
    """
    if not patch_size or min(patch_size) < 1:
        raise PocketError(f"patch_size: found {list(patch_size)}; give at least 1 voxel along each axis.")
    if sigma_scale <= 0 or not 0 < minimum <= 1:
        raise PocketError(
            f"sigma_scale, minimum: found {sigma_scale}, {minimum}; give a scale above 0 and a minimum in (0, 1]."
        )
    weights = torch.ones((), dtype=torch.float64)
    for length in patch_size:
        distance = torch.arange(length, dtype=torch.float64) - length // 2
        weights = weights.unsqueeze(-1) * torch.exp(-0.5 * (distance / (sigma_scale * length)) ** 2)
    return weights.clamp(min=minimum).float()
