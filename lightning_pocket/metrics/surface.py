"""Distances between the surfaces of two masks.

The surface of a mask is its voxels with a face neighbour outside the mask; outside the image is background, so an
object that touches the border has a surface there. A distance is that between voxel centres, in mm.

Policy for empty masks: both empty is a perfect score; one empty gives a surface Dice of 0 and, as distance, the
diagonal of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_pocket.errors import PocketError

# Spacing is stored as float32: three voxels of a third of a millimetre must still be within 1 mm.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class SurfaceDistances:
    """How far apart the surfaces of two masks are.

    Attributes:
        hd95_mm: 95th percentile Hausdorff distance in mm: the larger of the two directed 95th percentiles.
        asd_mm: Average symmetric surface distance in mm: the mean over the distances of both directions, pooled.
        surface_dice: Share of the surface voxels of both masks that lie within the tolerance of the other surface, in
            [0, 1] (normalised surface Dice; Nikolov et al., J Med Internet Res 2021, with voxels for surface area).
    """

    hd95_mm: float
    asd_mm: float
    surface_dice: float


def surface_distances(
    predicted: np.ndarray,
    truth: np.ndarray,
    spacing: Sequence[float],
    tolerance_mm: float = 1.0,
    empty_mm: float | None = None,
) -> SurfaceDistances:
    """Measure the distances between the surfaces of two masks.

    The values are those of SimpleITK's ``LabelContour(fullyConnected=False)`` and absolute ``SignedMaurerDistanceMap``
    of the masks padded with a voxel of background. They do not change when the masks change places.

    Args:
        predicted: Predicted mask ``(D, H, W)`` or ``(H, W)``; what is not 0 is inside.
        truth: True mask of the same shape.
        spacing: Voxel size in mm along each axis.
        tolerance_mm: Distance in mm up to which a surface voxel counts as found.
        empty_mm: Distance in mm given where one mask is empty; by default the diagonal of the arrays. Give the
            diagonal of the whole image where the arrays are cut out of one.

    Returns:
        HD95, ASD and surface Dice.

    Raises:
        PocketError: If the shapes differ or are not 2D or 3D, or if spacing or tolerance cannot be right.
    """
    predicted, truth, spacing_mm = _checked(predicted, truth, spacing)
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise PocketError(f"tolerance_mm: found {tolerance_mm}; expected a distance in mm, 0 or more.")
    cut = _cut(predicted, truth)
    if cut is None:
        distance = _distance_of_empty(predicted, truth, spacing_mm, empty_mm)
        return SurfaceDistances(distance, distance, float(not (predicted.any() or truth.any())))
    first, second = (_surface(mask) for mask in cut)
    forth, back = _distances(first, second, spacing_mm), _distances(second, first, spacing_mm)
    pooled = np.concatenate([forth, back])
    return SurfaceDistances(
        hd95_mm=_largest_percentile(forth, back),
        asd_mm=float(pooled.mean()),
        surface_dice=float((pooled <= tolerance_mm * (1 + _ROUNDING)).mean()),
    )


def volume_hd95(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float], empty_mm: float | None = None
) -> float:
    """Return the volume-based HD95, for comparison with published PocketNet results only.

    PocketNet's code took the percentile over all voxels of a mask, with distance 0 for those inside the other mask, and
    the larger of the two directions. Voxels deep inside both masks pull it towards 0: it is 0 as soon as less than 5 %
    of each mask lies outside the other. Use :func:`surface_distances` for anything else.

    Args:
        predicted: Predicted mask ``(D, H, W)`` or ``(H, W)``; what is not 0 is inside.
        truth: True mask of the same shape.
        spacing: Voxel size in mm along each axis.
        empty_mm: See :func:`surface_distances`.

    Returns:
        Distance in mm.

    Raises:
        PocketError: If the shapes differ or are not 2D or 3D, or if the spacing cannot be right.
    """
    predicted, truth, spacing_mm = _checked(predicted, truth, spacing)
    cut = _cut(predicted, truth)
    if cut is None:
        return _distance_of_empty(predicted, truth, spacing_mm, empty_mm)
    first, second = cut
    # The voxel of a mask that is nearest to one outside always lies on the mask's surface.
    forth, back = (
        np.concatenate([_query(a & ~b, _surface(b), spacing_mm), np.zeros(np.count_nonzero(a & b))])
        for a, b in ((first, second), (second, first))
    )
    return _largest_percentile(forth, back)


def diagonal_mm(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Return the diagonal in mm of an image with so many voxels of this size in mm along each axis."""
    return math.hypot(*(size * mm for size, mm in zip(shape, spacing, strict=True)))


def bounding_box(mask: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box that holds everything that is not 0; of no voxels where all is 0."""
    box = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
    return tuple(box)


def _checked(
    predicted: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    if predicted.shape != truth.shape or truth.ndim not in (2, 3):
        raise PocketError(
            f"predicted and truth: found the shapes {predicted.shape} and {truth.shape}; expected twice the same, "
            "(D, H, W) or (H, W)."
        )
    spacing_mm = np.asarray(spacing, dtype=float)
    if spacing_mm.shape != (truth.ndim,) or not (np.isfinite(spacing_mm) & (spacing_mm > 0)).all():
        raise PocketError(f"spacing: found {spacing_mm.tolist()}; expected {truth.ndim} positive voxel sizes in mm.")
    return predicted.astype(bool, copy=False), truth.astype(bool, copy=False), spacing_mm


def _cut(predicted: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both masks cut to the box that holds both; None if one is empty."""
    box = bounding_box(predicted | truth)
    predicted, truth = predicted[box], truth[box]
    return (predicted, truth) if predicted.any() and truth.any() else None


def _distance_of_empty(
    predicted: np.ndarray, truth: np.ndarray, spacing_mm: np.ndarray, empty_mm: float | None
) -> float:
    if not (predicted.any() or truth.any()):
        return 0.0
    return diagonal_mm(truth.shape, spacing_mm.tolist()) if empty_mm is None else empty_mm


def _surface(mask: np.ndarray) -> np.ndarray:
    """Return the voxels of a mask with a face neighbour outside."""
    padded = np.pad(mask, 1)
    inside = mask.copy()
    middle = (slice(1, -1),) * mask.ndim
    for axis in range(mask.ndim):
        for neighbours in (slice(None, -2), slice(2, None)):
            inside &= padded[(*middle[:axis], neighbours, *middle[axis + 1 :])]
    return mask & ~inside


def _distances(first: np.ndarray, second: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Return the distance in mm from each voxel of one surface to the nearest of another; their order is not kept."""
    # Voxels that both surfaces share need no search: in a good prediction most of them.
    return np.concatenate([_query(first & ~second, second, spacing_mm), np.zeros(np.count_nonzero(first & second))])


def _query(points: np.ndarray, targets: np.ndarray, spacing_mm: np.ndarray) -> Any:
    """Return the distance in mm from each voxel of one mask to the nearest of another.

    A tree of the targets was faster than distance maps of the box on most shapes, up to 13 times for many small
    objects. An unbalanced one is built faster, and searched three times faster where one surface encloses the other.
    """
    from scipy.spatial import KDTree

    tree = KDTree(np.argwhere(targets) * spacing_mm, balanced_tree=False, compact_nodes=False)
    return tree.query(np.argwhere(points) * spacing_mm)[0]


def _largest_percentile(forth: np.ndarray, back: np.ndarray) -> float:
    return float(max(np.percentile(forth, 95), np.percentile(back, 95)))
