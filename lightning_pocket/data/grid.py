"""Voxel grids in LPS orientation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where the voxels of an image lie, and how its file orders them.

    Args:
        shape: Voxels along (D, H, W).
        spacing: Voxel size in mm along (D, H, W).
        origin: LPS position in mm (x, y, z) of voxel (0, 0, 0).
        direction: 3 x 3 direction cosines, row by row, as ITK has them: columns are the axes W, H, D.
        orientation: Axis order of the file that the image came from, as a DICOM code such as "RAS".
    """

    shape: tuple[int, int, int]
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...]
    orientation: str = "LPS"

    @property
    def affine(self) -> np.ndarray:
        """4 x 4 matrix from (d, h, w, 1) to RAS+ mm."""
        cosines = np.array(self.direction).reshape(3, 3)
        affine = np.eye(4)
        affine[:3, :3] = cosines[:, ::-1] * np.array(self.spacing)
        affine[:3, 3] = self.origin
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in cubic millimetres."""
        return math.prod(self.spacing)

    def position(self, index: Sequence[float]) -> Triple:
        """Return the LPS position in mm (x, y, z) of the possibly fractional voxel (d, h, w)."""
        x, y, z = np.diag([-1.0, -1.0, 1.0]) @ (self.affine[:3, :3] @ np.array(index) + self.affine[:3, 3])
        return float(x), float(y), float(z)

    def distance(self, other: Grid) -> float:
        """Return the largest distance in mm between a corner voxel of this grid and the same voxel of another."""
        corners = np.array(list(itertools.product(*([0, size - 1] for size in self.shape))))
        corners = np.c_[corners, np.ones(len(corners))]
        return float(np.linalg.norm(corners @ (self.affine - other.affine).T, axis=1).max())

    def matches(self, other: Grid) -> bool:
        """Tell whether both grids agree: same shape, and corners within a tenth of the finest voxel side."""
        return self.shape == other.shape and self.distance(other) <= 0.1 * min(self.spacing)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, fit for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Grid:
        """Undo ``to_dict``."""
        depth, height, width = data["shape"]
        return cls(
            shape=(depth, height, width),
            spacing=triple(data["spacing"]),
            origin=triple(data["origin"]),
            direction=tuple(data["direction"]),
            orientation=data["orientation"],
        )


def triple(values: Sequence[float]) -> Triple:
    """Return three numbers as a tuple."""
    first, second, third = values
    return float(first), float(second), float(third)
