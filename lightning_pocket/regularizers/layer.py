"""The penalty of one convolution: its value, its prox, its threshold, and what is zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from .kernels import Convolution, from_kernels, kernel_shape, to_kernels
from .prox import NormName, chain_factors, group_weight, prox_group, prox_nested, ring_energies, shrinkage
from .rings import Box, box_extents, tap_levels

NormAware = Literal["none", "joint", "unit"]
#: Metric of the optimizer's last step: a number, one number per kernel, or one per weight; None where it made no step.
Metric = Callable[[nn.Parameter], "float | Tensor | None"]

_TINY = 1e-24


class LayerPenalty:
    r"""Sum of the norms of nested groups :math:`G_1 \subset \dots \subset G_N` of every kernel of a convolution.

    The last group, the root, is the whole kernel :math:`k_j`; with one group per kernel this is :math:`\Omega_1` (13),
    with (half-)rings :math:`\Omega_2` (22). What a norm behind the convolution does to the root is ``mode``:

    - ``none``: it is ignored, as in the paper;
    - ``joint``: the root is :math:`(k_j, \gamma_j, \beta_j)`;
    - ``unit``: kernels have the norm 1, which the norm behind them undoes, and the root is :math:`(\gamma_j, \beta_j)`.

    Args:
        name: Name of the convolution in its network.
        conv: The convolution.
        boxes: What is left of a kernel after each group, see :mod:`.rings`.
        norm: Norm of each group.
        partner: Batch or instance norm right behind the convolution.
        mode: See above; without a partner it is ``none``.

    Attributes:
        levels: Integers of the kernel's shape, the first group of each tap.
        groups: Number of groups per kernel.
        sizes: ``(N + 1,)`` size of a kernel of which so many groups are zero.
        base_weights: ``(N,)`` weight of each group's norm, by equation (25) or (29).
    """

    def __init__(
        self,
        name: str,
        conv: Convolution,
        boxes: Sequence[Box],
        norm: NormName = "l2",
        partner: nn.Module | None = None,
        mode: NormAware = "none",
    ) -> None:
        self.name = name
        self.conv = conv
        self.norm = norm
        self.partner = partner
        self.mode: NormAware = mode if partner is not None else "none"
        device = conv.weight.device
        self.levels = tap_levels(boxes).to(device)
        self.groups = len(boxes) - 1
        self.sizes = box_extents(boxes).to(device)
        taps = torch.bincount(self.levels.flatten(), minlength=self.groups).cumsum(0)
        elements = taps * kernel_shape(conv)[1]
        elements[-1] = (self.mode != "unit") * elements[-1] + len(self.partner_parameters)
        self.elements = elements
        self.base_weights = group_weight(norm, elements.clamp_min(1)).to(conv.weight)
        self._has_root = self.mode != "unit" or bool(self.partner_parameters)
        if not self._has_root:  # the norm has no scale: nothing is left that could be zero
            self.base_weights[-1] = 0.0

    @property
    def partner_parameters(self) -> list[nn.Parameter]:
        """Scale and shift that belong to the root; none without norm awareness, or where they do not learn."""
        if self.partner is None or self.mode == "none":
            return []
        found = (getattr(self.partner, name, None) for name in ("weight", "bias"))
        return [parameter for parameter in found if isinstance(parameter, nn.Parameter) and parameter.requires_grad]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Everything that the penalty is about."""
        return [cast("nn.Parameter", self.conv.weight), *self.partner_parameters]

    @property
    def kernels(self) -> Tensor:
        """The weights as ``(O, I / groups, *K)``."""
        return to_kernels(self.conv, self.conv.weight)

    def to(self, device: torch.device) -> None:
        """Bring what the penalty needs beside the weights to their device."""
        self.levels, self.sizes = self.levels.to(device), self.sizes.to(device)
        self.base_weights = self.base_weights.to(device)

    def arrange(self, values: Tensor) -> Tensor:
        """Return what has the shape of the weights as ``(O, I / groups, *K)``."""
        return to_kernels(self.conv, values)

    def group_norms(self, l2: bool = False) -> Tensor:
        """Return ``(O, N)`` norms of the groups, without their weights; differentiable.

        Args:
            l2: The l2 norm, whatever norm the penalty has.
        """
        return self.norms_of(self.kernels, [p[:, None] for p in self.partner_parameters], l2)

    def norms_of(self, kernels: Tensor, partners: Sequence[Tensor], l2: bool = False) -> Tensor:
        """Return the same of other values.

        Args:
            kernels: ``(O, I / groups, *K)``.
            partners: ``(O, 1)`` each, in the order of :attr:`partner_parameters`.
            l2: The l2 norm, whatever norm the penalty has.
        """
        extra = torch.cat(list(partners), 1) if partners else kernels.new_zeros(len(kernels), 1)
        if self.norm == "l_infinity" and not l2:
            rings = [kernels[:, :, self.levels == n].abs().flatten(1).amax(1) for n in range(self.groups)]
            norms = torch.stack(rings, 1).cummax(1).values
            own, other = norms[:, -1], extra.abs().amax(1)
            root = torch.maximum(own, other) if self.mode != "unit" else other
        else:
            energies = self._energies(kernels).cumsum(1)
            norms = energies.clamp_min(_TINY).sqrt() * (energies > 0)
            energy = extra.square().sum(1) + (energies[:, -1] if self.mode != "unit" else 0.0)
            root = energy.clamp_min(_TINY).sqrt() * (energy > 0)
        return torch.cat([norms[:, :-1], root[:, None]], 1)

    def weights(self, factors: Tensor | None = None) -> Tensor:
        """Return ``(O, N)`` weights of the groups' norms.

        Args:
            factors: ``(O, N)``, what a complexity form multiplies them by.
        """
        weights = self.base_weights.expand(self.conv.out_channels, -1)
        return weights if factors is None else weights * factors

    @torch.no_grad()
    def prox(self, weights: Tensor, metric: Metric) -> None:
        """Take the proximal step in place.

        Nested groups are composed from the smallest to the root. That is exact where the metric is isotropic within a
        kernel; the root alone may have any diagonal one, because it then scales each ring by one number.

        Args:
            weights: ``(O, N)`` strength of each group.
            metric: Metric of each parameter. With nested groups, not one per weight.
        """
        found = [metric(parameter) for parameter in self.parameters]
        if any(value is None for value in found):  # the optimizer has not moved it
            return
        if self.mode == "unit":
            self.normalize()
        columns = [self._columns(value) for value in found if value is not None]
        same = all(isinstance(value, float) and value == found[0] for value in found)
        isotropic = self.mode != "unit" and (same or (len(found) == 1 and columns[0].shape[1] == 1))
        if self.norm != "l_infinity" and isotropic:
            self._prox_isotropic(weights / columns[0])
        else:
            self._prox_in_turn(weights, columns)

    def _prox_isotropic(self, thresholds: Tensor) -> None:
        """Multiply rings, scales and shifts by the factors of the l2 prox; everything has the same metric."""
        energies = self._energies(self.kernels)
        factors = torch.ones_like(energies)
        if self.groups > 1:
            factors[:, :-1] = chain_factors(energies[:, :-1], thresholds[:, :-1])
        energy = (factors.square() * energies).sum(1)
        for parameter in self.partner_parameters:
            energy = energy + parameter.square()
        root = shrinkage(energy.sqrt(), thresholds[:, -1])
        self._scale(factors * root[:, None])
        for parameter in self.partner_parameters:
            parameter.mul_(root)

    def _prox_in_turn(self, weights: Tensor, metrics: Sequence[Tensor]) -> None:
        """Take the prox of one group after the other, the root last, in any metric and norm."""
        kernels = prox_nested(self.kernels, self.levels, weights[:, :-1], metrics[0], self.norm)
        rows, metric = self._root_rows(kernels, metrics)
        if rows.shape[1]:
            shrunk = prox_group(rows, weights[:, -1], metric, self.norm)
            if self.mode != "unit":
                kernels = shrunk[:, : kernels[0].numel()].view_as(kernels)
            count = len(self.partner_parameters)
            for column, parameter in enumerate(self.partner_parameters):
                parameter.copy_(shrunk[:, column - count])
        self.conv.weight.copy_(from_kernels(self.conv, kernels))

    def _root_rows(self, kernels: Tensor, metrics: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return what belongs to the root, one row per kernel, and its metric."""
        rows = [parameter[:, None] for parameter in self.partner_parameters]
        found = list(metrics[1:])
        if self.mode != "unit":
            rows, found = [kernels.flatten(1), *rows], list(metrics)
        if len(rows) == 1:
            return rows[0], found[0]
        both = [metric.expand_as(row) for metric, row in zip(found, rows, strict=True)]
        return (torch.cat(rows, 1), torch.cat(both, 1)) if rows else (kernels[:, :0].flatten(1), metrics[0])

    def _columns(self, metric: float | Tensor) -> Tensor:
        """Return a metric with one row per kernel, or one row for all."""
        if isinstance(metric, float):
            return self.conv.weight.new_full((1, 1), metric)
        if metric.ndim == 1:
            return metric[:, None]
        return to_kernels(self.conv, metric).flatten(1)

    @torch.no_grad()
    def normalize(self) -> None:
        r"""Give every kernel the norm 1, and change the norm behind it so that the network does the same.

        Batch norm undoes the change in training, up to its ``eps``. Its running statistics and the convolution's bias
        are scaled too, so that evaluation does not see it either. Kernels that are zero stay so.
        """
        length = torch.linalg.vector_norm(self.kernels.flatten(1), dim=1)
        factor = torch.where(length > 0, 1 / length.clamp_min(torch.finfo(length.dtype).tiny), 1.0)
        self.conv.weight.mul_(self._over_kernels(factor))
        if self.conv.bias is not None:
            self.conv.bias.mul_(factor)
        for name, power in (("running_mean", 1), ("running_var", 2)):
            running = getattr(self.partner, name, None)
            if running is not None:
                running.mul_(factor.to(running) ** power)

    @torch.no_grad()
    def threshold(self, tau: float | Tensor) -> None:
        """Make groups zero whose l2 norm is at most ``tau``: a number, or ``(O,)`` one per kernel."""
        limit = torch.as_tensor(tau).to(self.conv.weight).view(-1, 1)
        small = self.group_norms(l2=True) <= limit
        zeros = small[:, :-1].sum(1)
        if self._has_root:
            zeros = torch.where(small[:, -1], self.groups, zeros)
        self.keep(torch.maximum(zeros, self.zeros()))

    @torch.no_grad()
    def zeros(self) -> Tensor:
        """Return ``(O,)`` numbers of groups that are zero: 0 is a full kernel, :attr:`groups` a dead one.

        Dead is a kernel whose norm has zero scale and shift, too.
        """
        zero = (self._energies(self.kernels).cumsum(1) == 0).sum(1)
        if self.partner_parameters:
            silent = torch.stack([parameter == 0 for parameter in self.partner_parameters]).all(0)
            zero = torch.where(silent, self.groups, zero)
        return zero

    @torch.no_grad()
    def keep(self, zeros: Tensor) -> None:
        """Set groups to zero: those that are, and what a dead kernel leaves behind.

        Where the norm is part of the penalty, scale, shift and bias of a dead kernel are set to zero with it: nothing
        of its channel is left.

        Args:
            zeros: ``(O,)`` as from :meth:`zeros`.
        """
        zeros = zeros.to(self.levels.device)
        kept = (torch.arange(self.groups, device=zeros.device) >= zeros[:, None]).to(self.conv.weight)
        self._scale(kept)
        if self.mode == "none":
            return
        alive = kept[:, -1]
        for parameter in [*self.partner_parameters, self.conv.bias]:
            if parameter is not None:
                parameter.mul_(alive)

    def _energies(self, kernels: Tensor) -> Tensor:
        """Return ``(O, N)`` squared l2 norms of the rings."""
        return ring_energies(kernels, self.levels, self.groups)

    def _spread(self, rings: Tensor) -> Tensor:
        """Return ``(O, 1, *K)`` from one number per ring, ``(O, N)``."""
        return rings[:, self.levels].unsqueeze(1)

    def _scale(self, factors: Tensor) -> None:
        """Multiply the rings of each kernel in place."""
        self.conv.weight.mul_(from_kernels(self.conv, self._spread(factors)))

    def _over_kernels(self, values: Tensor) -> Tensor:
        """Return one number per kernel, ``(O,)``, so that it can be broadcast to the weights."""
        return from_kernels(self.conv, values.view(-1, 1, *[1] * self.levels.ndim))
