"""How the number of parameters grows with depth: equations (1) to (3) of PocketNet.

The equations describe a simplified network: ``convolutions`` layers per resolution, each with as many input as output
channels, no biases, no norms, nothing between the resolutions (Celaya et al., IEEE TMI 2023, section II). A real U-Net
also has a decoder, whose first layer at each level sees twice the channels, transitions between levels, and an image
with few channels at the finest one; so its two numbers are closer to each other than the formulas say.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_pocket.errors import PocketError


@dataclass(frozen=True)
class SimplifiedNetwork:
    """The network of the equations.

    Args:
        depth: Number of downsamplings (D); the network has ``depth + 1`` resolutions.
        base: Channels at the finest resolution (c).
        convolutions: Convolutions per resolution (C).
        kernel_size: Voxels of a kernel along each axis (k).
        spatial_dims: 2 for slices, 3 for volumes (n).

    Raises:
        PocketError: If a number is too small.
    """

    depth: int
    base: int = 32
    convolutions: int = 2
    kernel_size: int = 3
    spatial_dims: int = 3

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise PocketError(f"{name}: found {value}, expected at least 1.")

    @property
    def full(self) -> int:
        """Parameters where the channels double at every downsampling, equation (1)."""
        return sum(self._level(self.base * 2**level) for level in range(self.depth + 1))

    @property
    def pocket(self) -> int:
        """Parameters where every resolution has the same channels, equation (2)."""
        return (self.depth + 1) * self._level(self.base)

    @property
    def ratio(self) -> float:
        """How many times more parameters the full network has: ``(4^(D+1) - 1) / (3 (D+1))``."""
        return self.full / self.pocket

    @property
    def printed_ratio(self) -> float:
        """What equation (3) says of the ratio: about ``4^D / D``, which is not exact."""
        return 4**self.depth / self.depth

    def _level(self, channels: int) -> int:
        return self.convolutions * self.kernel_size**self.spatial_dims * channels**2
