r"""Proximal operators of sums of group norms: disjoint groups, nested groups, and diagonal metrics.

Each minimises :math:`\tfrac12 \sum_i D_i (x_i - v_i)^2 + \Omega(x)` for the metric :math:`D`. A step of gradient
descent with the rate :math:`\eta` has :math:`D = 1 / \eta`, one of Adam
:math:`D = (\sqrt{\hat v} + \epsilon) / \eta`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError

NormName = Literal["l2", "group_normalized", "group_scaled", "l_infinity"]

_MOST_ITERATIONS = 60


def chain_factors(energies: Tensor, thresholds: Tensor) -> Tensor:
    r"""Return what each ring is multiplied by in the prox of nested l2 groups, in an isotropic metric.

    The groups form a chain, so their proxes are composed from the smallest to the largest (Jenatton, Mairal, Obozinski
    and Bach, JMLR 2011, theorem 1). Only the norms of the rings matter. With :math:`E_0 = 0` and for :math:`n = 1..N`:
    :math:`E \leftarrow E + \rho_n`, :math:`f_n = \max(0, 1 - t_n / \sqrt E)`, :math:`E \leftarrow f_n^2 E`; ring
    :math:`n` is multiplied by :math:`\prod_{m \ge n} f_m`.

    Args:
        energies: ``(O, N)`` squared l2 norm of each ring of each kernel, the outermost first.
        thresholds: ``(O, N)`` weight of each group divided by the metric.

    Returns:
        ``(O, N)`` factors in [0, 1]; the zeros of a kernel come first.
    """
    energy = torch.zeros_like(energies[:, 0])
    factors = []
    for ring, threshold in zip(energies.unbind(1), thresholds.unbind(1), strict=True):
        energy = energy + ring
        factor = shrinkage(energy.sqrt(), threshold)
        factors.append(factor)
        energy = factor.square() * energy
    return torch.stack(factors, 1).flip(1).cumprod(1).flip(1)


def shrinkage(norm: Tensor, threshold: Tensor) -> Tensor:
    """Return ``max(0, 1 - threshold / norm)``; 0 where the norm is 0, unless the threshold is too."""
    safe = torch.where(norm > threshold, norm, torch.ones_like(norm))
    return torch.where(norm > threshold, 1 - threshold / safe, (threshold <= 0).to(norm.dtype))


def prox_group(values: Tensor, weights: Tensor, metric: Tensor, norm: NormName = "l2") -> Tensor:
    """Return the prox of the weighted norm of each row.

    Args:
        values: ``(O, M)``, one group a row.
        weights: ``(O,)`` weight of each row's norm.
        metric: Positive, broadcast to ``values``; one column where the metric is isotropic.
        norm: ``l_infinity``, or any of the others, which are l2 with other weights.

    Returns:
        ``(O, M)``; a row is exactly zero where its weight is not below the dual norm of ``metric * values``.
    """
    if norm == "l_infinity":
        return _prox_l_infinity(values, weights, metric)
    if metric.shape[-1] == 1 and values.shape[-1] != 1:
        length = torch.linalg.vector_norm(values, dim=1)
        return values * shrinkage(length, weights / metric[:, 0])[:, None]
    return _prox_l2_diagonal(values, weights, metric.expand_as(values))


def prox_nested(kernels: Tensor, levels: Tensor, weights: Tensor, metric: Tensor, norm: NormName = "l2") -> Tensor:
    """Return the prox of nested groups of the taps of each kernel.

    Args:
        kernels: ``(O, I, *K)``.
        levels: Integers of the shape ``K``, the first group of each tap.
        weights: ``(O, N)``; group ``n`` is made of the taps of level ``n`` and below. Taps of higher levels stay.
        metric: ``(O, 1)`` or ``(1, 1)``, isotropic within a kernel.
        norm: ``l_infinity``, or any of the others, which are l2 with other weights.

    Returns:
        ``(O, I, *K)``.
    """
    if norm != "l_infinity":
        found = ring_energies(kernels, levels, weights.shape[1] + 1)
        factors = torch.ones_like(found)
        if weights.shape[1]:
            factors[:, :-1] = chain_factors(found[:, :-1], weights / metric)
        return kernels * factors[:, levels.clamp_max(weights.shape[1])].unsqueeze(1)
    shrunk = kernels.clone()
    for n, weight in enumerate(weights.unbind(1)):
        taps = levels <= n
        rows = shrunk[:, :, taps]
        shrunk[:, :, taps] = prox_group(rows.flatten(1), weight, metric, norm).view_as(rows)
    return shrunk


def ring_energies(kernels: Tensor, levels: Tensor, count: int) -> Tensor:
    """Return ``(O, count)`` squared l2 norms of the taps of each level; the last one has all higher levels too.

    Args:
        kernels: ``(O, I, *K)``.
        levels: Integers of the shape ``K``.
        count: Number of levels.
    """
    one_hot = torch.nn.functional.one_hot(levels.flatten().clamp_max(count - 1), count)
    return kernels.square().sum(1).flatten(1) @ one_hot.to(kernels)


def dual_norm(rows: Tensor, norm: NormName) -> Tensor:
    """Return ``(O,)`` dual norms: l1 for ``l_infinity``, else l2."""
    return torch.linalg.vector_norm(rows, 1 if norm == "l_infinity" else 2, dim=1)


def _prox_l2_diagonal(values: Tensor, weights: Tensor, metric: Tensor) -> Tensor:
    r"""Solve :math:`x = D v t / (D t + \lambda)` with :math:`t = |x|`, zero where :math:`|D v| \le \lambda`.

    :math:`q(t) = |D v / (D t + \lambda)|` is 1 at the solution. Newton's method on :math:`1 / q(t) = 1`, which is
    concave and increasing as in trust-region methods, climbs to it from 0 without passing it. No power of :math:`q` is
    taken: where the learning rate is close to 0, it overflows.
    """
    pulled = metric * values
    alive = torch.linalg.vector_norm(pulled, dim=1) > weights
    weight = torch.where(alive & (weights > 0), weights, torch.ones_like(weights))[:, None]
    length, tiny = torch.zeros_like(weight), torch.finfo(values.dtype).tiny
    for _ in range(_MOST_ITERATIONS):
        inverse = 1 / (metric * length + weight)
        terms = pulled * inverse
        q = torch.linalg.vector_norm(terms, dim=1, keepdim=True)
        slope = ((terms / q.clamp_min(tiny)).square() * metric * inverse).sum(1, keepdim=True)
        step = torch.where(alive[:, None] & (slope > 0), (q - 1) / slope, 0.0)
        length = (length + step).clamp_min(0.0)
        if not bool((step.abs() > 4 * torch.finfo(values.dtype).eps * length).any()):
            break
    free = (weights <= 0)[:, None]
    shrunk = pulled * length / (metric * length + weight)
    return torch.where(free, values, torch.where(alive[:, None], shrunk, torch.zeros_like(values)))


def _prox_l_infinity(values: Tensor, weights: Tensor, metric: Tensor) -> Tensor:
    r"""Clip at the :math:`t \ge 0` with :math:`\sum_i D_i \max(|v_i| - t, 0) = \lambda`; zero where there is none.

    With one number for the metric this is Moreau's :math:`v - P(v)`, where :math:`P` projects on the l1 ball.
    """
    size, order = values.abs().sort(dim=1, descending=True)
    sorted_metric = metric.expand_as(values).gather(1, order)
    mass = sorted_metric.cumsum(1)
    levels = ((sorted_metric * size).cumsum(1) - weights[:, None]) / mass
    above = (size > levels).sum(1, keepdim=True).clamp_min(1)  # the entries above the level come first
    level = levels.gather(1, above - 1).clamp_min(0.0)
    clipped = values.sign() * torch.minimum(values.abs(), level)
    return torch.where((weights <= 0)[:, None], values, clipped)


def group_weight(norm: NormName, elements: Tensor) -> Tensor:
    r"""Return the factor of the l2 norm of a group of :math:`|G|` weights.

    Equations (25) and (29) print :math:`|k|` inside their roots where its square is meant; otherwise (26) fails.

    Args:
        norm: ``l2`` and ``l_infinity`` are not weighted; ``group_normalized`` divides by :math:`\sqrt{|G|}` (25),
            ``group_scaled`` multiplies by it (29).
        elements: Number of weights of each group.

    Raises:
        PocketError: If there is no such norm.
    """
    count = elements.to(torch.float64)
    weights = {
        "l2": torch.ones_like(count),
        "l_infinity": torch.ones_like(count),
        "group_normalized": count.rsqrt(),
        "group_scaled": count.sqrt(),
    }
    if norm not in weights:
        raise PocketError(f"regularizer.norm: found {norm!r}, expected one of {', '.join(weights)}.")
    return weights[norm]
