"""What was drawn for one sample: plain numbers that travel with the batch from the loader to the device.

Axes 0, 1, 2 are D, H, W; distances are in mm, displacements of control points too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Triplet = tuple[float, float, float]


@dataclass(frozen=True)
class Flip:
    """Reverse some axes."""

    axes: tuple[int, ...]


@dataclass(frozen=True)
class Affine:
    """Shear in the plane of H and W, rotate about the axes 1, 0, 2 in this order, shift, then scale.

    Args:
        scales: Factors along each axis; above 1 enlarges.
        degrees: Angle about each axis.
        translation: Shift along each axis in mm.
        spacing: Voxel size along each axis in mm.
        centered: Rotate and scale about the centre of the image, else about its first voxel.
        pad: What fills the image beyond its border: its minimum, the mean of its faces, or a number.
        label_pad: What fills the label.
        shears: Angle in degrees by which lines along W lean towards H, and lines along H towards W.
    """

    scales: Triplet
    degrees: Triplet
    translation: Triplet
    spacing: Triplet
    centered: bool = True
    pad: str | float = "minimum"
    label_pad: float = 0.0
    shears: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, eq=False)
class Elastic:
    """Displace by cubic B-splines.

    Args:
        control_points: ``(N0, N1, N2, 3)`` displacements in mm, ordered as TorchIO orders them: along L, P, S.
        spacing: Voxel size along each axis in mm.
    """

    control_points: NDArray[np.float32]
    spacing: Triplet


@dataclass(frozen=True)
class Warp:
    """Adjacent spatial transforms, done in one resampling; None where one was not drawn."""

    parts: tuple[Affine | Elastic | None, ...]


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise, the same for no two seeds."""

    mean: float
    std: float
    seed: int


@dataclass(frozen=True)
class Blur:
    """Blur with a Gaussian of this standard deviation in voxels along each axis."""

    std: Triplet


@dataclass(frozen=True)
class Gamma:
    """Raise each channel's magnitudes to a power of its own."""

    powers: tuple[float, ...]


@dataclass(frozen=True)
class BiasField:
    """Multiply by the exponential of a polynomial of this order; coefficients in TorchIO's order."""

    coefficients: tuple[float, ...]
    order: int


Step = Flip | Warp | Noise | Blur | Gamma | BiasField


class Recipe:
    """What happens to one sample, in order; None where a transform was not drawn.

    No dataclass, so that Lightning hands it on as it is when it moves a batch.

    Args:
        steps: One per transform (adjacent spatial ones count as one), of the same kind in every recipe of a batch.
    """

    def __init__(self, steps: list[Step | None]) -> None:
        self.steps = steps
