"""How layers are expanded for training (ExpandNets, Guo et al., NeurIPS 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from lightning_pocket.errors import PocketError


@dataclass(frozen=True)
class Expansion:
    """Which layers of a network are trained as rows of wider linear layers, and how.

    Such a row is one linear map, so that after training it becomes the layer that it stood for, at no cost. ``cl``
    makes of a kernel ``k`` from ``m`` to ``n`` channels three: 1 to ``r m``, ``k`` to ``r n``, 1 to ``n``; ``ck``
    makes ``(k - 1) / 2`` kernels of 3, to ``r m``, then ``r n``, at last ``n``. Groups stay groups throughout.

    Args:
        conv: ``cl``, ``ck``, or ``none``.
        linear: Whether linear layers become three, to ``r`` times their inputs and ``r`` times their outputs; the last
            one of a network, which makes its logits, stays.
        rate: The ``r``.
        select: ``all`` convolutions with kernels above 1, those of the ``encoder``, the ``depthwise`` ones, those of
            them with a stride (``strided_depthwise``), the ``first`` one, or a list of these words and of names of
            modules: layers below a name are expanded whatever their kernel, the last linear layer too.
        mode: ``fused`` computes the one kernel and convolves once; ``layers`` applies the layers one by one, as the
            paper does; both give the same. ``nonlinear`` is the paper's counterpart with a ReLU after each layer but
            the last, which cannot be contracted. ``start`` contracts at once: a plain network that begins as an
            expanded one would.
        init: ``factors`` draws the weights of each layer as those of any other; ``exact`` makes them such that their
            product is the kernel that the plain network begins with.
        first_layer: What the first layer of the network's first convolution makes of ``m`` channels: ``r m`` as the
            ``paper`` says, or ``m`` as its ``code`` does.
        bias: Whether only the ``last`` layer has a bias, or ``all`` of them, as in the paper; none where the plain
            layer has none.
        without_ck: What ``ck`` makes of kernels that are even, or not above 3: ``cl`` or ``plain``.

    Raises:
        PocketError: If ``rate`` is not a positive number, or nonlinear layers are to be exact.
    """

    conv: Literal["none", "cl", "ck"] = "none"
    linear: bool = False
    rate: float = 4.0
    select: str | list[str] = "all"
    mode: Literal["fused", "layers", "nonlinear", "start"] = "fused"
    init: Literal["factors", "exact"] = "factors"
    first_layer: Literal["paper", "code"] = "paper"
    bias: Literal["last", "all"] = "last"
    without_ck: Literal["cl", "plain"] = "cl"

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf:
            raise PocketError(f"layers.expansion.rate: found {self.rate:g}, expected more than 0, such as 4.")
        if self.mode == "nonlinear" and self.init == "exact":
            raise PocketError("layers.expansion.init: exact, but nonlinear layers have no kernel. Choose factors.")

    def __bool__(self) -> bool:
        """Whether there is anything to expand."""
        return self.linear or self.conv != "none"

    @property
    def names(self) -> list[str]:
        """What ``select`` names, as a list."""
        return [self.select] if isinstance(self.select, str) else list(self.select)

    def widened(self, channels: int, groups: int = 1) -> int:
        """Return ``r`` times a number of channels, rounded down in each group, at least 1 there."""
        return groups * max(1, int(self.rate * (channels // groups)))


def chain_kernels(kind: Literal["cl", "ck"], kernel: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return the kernels of the layers that one kernel is divided into.

    Args:
        kind: ``cl`` or ``ck``.
        kernel: Size along each axis. ``ck`` divides axes of different size too: the shorter ones by the first layers.

    Raises:
        PocketError: If ``ck`` cannot divide it.
    """
    if kind == "cl":
        one = (1,) * len(kernel)
        return [one, kernel, one]
    if any(size % 2 == 0 for size in kernel):
        raise PocketError(
            f"layers.expansion.conv: ck divides a kernel into kernels of 3, which cannot make the even one {kernel}. "
            "Choose cl."
        )
    layers = (max(kernel) - 1) // 2
    if layers < 2:
        raise PocketError(
            f"layers.expansion.conv: ck divides kernels above 3 into kernels of 3; {kernel} is one already. Choose cl."
        )
    return [tuple(3 if size > 2 * place + 1 else 1 for size in kernel) for place in range(layers)]
