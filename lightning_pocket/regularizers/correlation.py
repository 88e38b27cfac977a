"""How alike the kernels of a layer are: what a penalty on their number should leave less of."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def kernel_correlation(kernels: Tensor) -> float | None:
    r"""Return the mean absolute correlation :math:`|k_i \cdot k_j| / (|k_i| |k_j|)` over the pairs of living kernels.

    A kernel and its negative count as alike: behind a norm without the other sign they see the same thing. Kernels are
    not centred, because a convolution with a constant kernel sees something too.

    Args:
        kernels: ``(O, I / groups, *K)``; those that are zero are left out.

    Returns:
        From 0, where all are orthogonal, to 1; None with fewer than two living kernels.
    """
    rows = kernels.flatten(1)
    rows = rows[rows.any(1)].double()
    count = len(rows)
    if count < 2:
        return None
    unit = rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    alike = (unit @ unit.T).abs()
    return float((alike.sum() - alike.diagonal().sum()) / (count * (count - 1)))
