"""What is to become sparse: the number of kernels, or their size."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .complexity import ComplexityName, Lagged
from .layer import NormAware
from .prox import NormName
from .rings import Box, Corner, half_ring_boxes, ring_boxes, whole_boxes


class Regularizer(ABC):
    """Groups of the weights of a kernel, the norm of a group, and how groups are weighed.

    Attributes:
        norm: Norm of a group.
        complexity: What the sum of norms stands for.
        lagged: What the weights of a complexity are computed from.
        norm_aware: How norms behind convolutions are taken into account, unless the user says.
    """

    norm: NormName
    complexity: ComplexityName
    lagged: Lagged
    norm_aware: ClassVar[NormAware]

    @abstractmethod
    def boxes(self, size: Sequence[int]) -> list[Box]:
        """Return what is left of a kernel of ``size`` taps after each of its groups, see :mod:`.rings`."""


@dataclass(frozen=True)
class KernelNumber(Regularizer):
    r"""Fewer kernels: one group per kernel, :math:`\Omega_1 = \sum_j |k_j|`, equation (13).

    Args:
        norm: ``l2``; ``group_normalized`` divides by the root of the number of weights (25), ``group_scaled``
            multiplies by it (29); ``l_infinity`` is the largest weight.
        complexity: ``none`` is the sum; ``squared_width`` the sum of its squares over layers (32), so that wide layers
            lose more.
        lagged: Whether the weights of a complexity are computed from the ``norms`` of the last step, as the equations
            say, or from the number of kernels ``alive``.

    Raises:
        PocketError: If a setting is unknown.
    """

    norm: NormName = "l2"
    complexity: Literal["none", "squared_width"] = "none"
    lagged: Lagged = "norms"

    norm_aware: ClassVar[NormAware] = "joint"

    @override
    def boxes(self, size: Sequence[int]) -> list[Box]:
        return whole_boxes(size)


@dataclass(frozen=True)
class KernelSize(Regularizer):
    r"""Smaller kernels: nested groups, :math:`\Omega_2 = \sum_j \sum_n |k_j(G_n)|`, equation (22).

    Args:
        groups: ``rings`` take a tap off both ends of each axis, so that kernels stay centred: 3, 1, nothing.
            ``half_rings`` take one off one end after the other: every size, as in the draft's figures.
        start: Corner that the first half-ring touches.
        norm: See :class:`KernelNumber`.
        complexity: ``none`` is the sum; ``squared_size`` the sum of each kernel's own, squared (33), cubed for volumes;
            ``multiply_adds`` an estimate of the network's multiply-adds (34).
        lagged: Whether the weights of a complexity are computed from the ``norms`` of the last step, as the equations
            say, or from the sizes and kernels that are ``alive``.

    Raises:
        PocketError: If a setting is unknown.
    """

    groups: Literal["rings", "half_rings"] = "rings"
    start: Corner = "top_left"
    norm: NormName = "l2"
    complexity: Literal["none", "squared_size", "multiply_adds"] = "none"
    lagged: Lagged = "norms"

    norm_aware: ClassVar[NormAware] = "unit"

    def __post_init__(self) -> None:
        if self.groups not in ("rings", "half_rings"):
            raise PocketError(f"regularizer.groups: found {self.groups!r}, expected rings or half_rings.")

    @override
    def boxes(self, size: Sequence[int]) -> list[Box]:
        return ring_boxes(size) if self.groups == "rings" else half_ring_boxes(size, self.start)
