"""What a chain of convolutions costs, as a formula: products with kernels whose number and size may be learned.

Equation (10) of "Optimal Convolutional Architectures Via Structured Sparsity Regularizers" (draft): the sum over the
layers of ``r_i c_i d_i s_i^2 d_{i-1}``. It is what :func:`~lightning_pocket.profiling.macs.count_macs` counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from lightning_pocket.errors import PocketError


@dataclass(frozen=True)
class KernelLayer:
    """A convolution, or a linear layer: that is a convolution of one pixel with kernels of one pixel.

    Args:
        channels: Channels of the input that a kernel sees, ``d_{i-1}``.
        kernels: Kernels, ``d_i``.
        kernel_size: Pixels of a kernel along each axis, ``s_i``; a kernel that was cropped has the size that is left.
        output_size: Pixels of the convolution's own output along each axis, ``(r_i, c_i)``, before any pooling.

    Raises:
        PocketError: If a number is negative, or kernel and output do not have as many axes.
    """

    channels: int
    kernels: int
    kernel_size: Sequence[int]
    output_size: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.kernel_size) != len(self.output_size):
            raise PocketError(
                f"kernel_size: found {list(self.kernel_size)} for an output of {list(self.output_size)}; give as many "
                "numbers for both, one per axis."
            )
        for name in ("channels", "kernels", "kernel_size", "output_size"):
            value = getattr(self, name)
            if min([value] if isinstance(value, int) else value) < 0:
                raise PocketError(f"{name}: found {value}, expected nothing below 0.")

    @property
    def products(self) -> int:
        """Products of the layer for one image, ``r_i c_i d_i s_i^2 d_{i-1}``."""
        return prod(self.output_size) * self.kernels * prod(self.kernel_size) * self.channels


def complexity(layers: Iterable[KernelLayer]) -> int:
    """Return the products of all layers for one image: equation (10).

    Args:
        layers: The convolutions and the linear layer; projections of shortcuts count too where there are any.
    """
    return sum(layer.products for layer in layers)
