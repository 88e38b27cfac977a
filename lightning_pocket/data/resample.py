"""Moves images and labels between voxel grids."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import SimpleITK as sitk

from lightning_pocket.data.grid import Grid, Triple, triple
from lightning_pocket.data.images import to_itk

Interpolation = Literal["bspline", "linear"]

# Relative difference of spacing below which an axis is left alone: files round their spacing.
SAME_SPACING = 1e-3


def resampled_grid(grid: Grid, spacing: Triple | None) -> Grid:
    """Return the grid of another spacing over the same region.

    The centre of the region stays; the number of voxels is rounded. An axis whose spacing differs by at most 0.1 %
    keeps its voxels.

    Args:
        grid: The grid.
        spacing: Wanted voxel size in mm along (D, H, W); None keeps the grid.

    Returns:
        The new grid; the same one where nothing has to be resampled.
    """
    if spacing is None:
        return grid
    pairs = list(zip(grid.spacing, spacing, strict=True))
    new = triple([old if abs(want / old - 1) <= SAME_SPACING else want for old, want in pairs])
    if new == grid.spacing:
        return grid
    shape = tuple(max(1, round(n * old / step)) for n, old, step in zip(grid.shape, grid.spacing, new, strict=True))
    first = [
        ((n - 1) - (count - 1) * step / old) / 2
        for n, count, old, step in zip(grid.shape, shape, grid.spacing, new, strict=True)
    ]
    return replace(grid, shape=(shape[0], shape[1], shape[2]), spacing=new, origin=grid.position(first))


def resample_image(voxels: np.ndarray, source: Grid, target: Grid, interpolation: Interpolation) -> np.ndarray:
    """Resample one channel.

    Args:
        voxels: Intensities ``(D, H, W)`` on ``source``.
        source: Where they lie.
        target: Where they are wanted.
        interpolation: "bspline" (cubic) or "linear".

    Returns:
        float32 intensities on ``target``.
    """
    if source == target:
        return voxels.astype(np.float32)
    kind = {"bspline": sitk.sitkBSpline, "linear": sitk.sitkLinear}[interpolation]
    return _resample(voxels.astype(np.float32), source, target, kind)


def resample_label(label: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """Resample a label: each class by linear interpolation of its mask, then the class with the largest share.

    Args:
        label: Class indices ``(D, H, W)`` uint8 on ``source``.
        source: Where it lies.
        target: Where it is wanted.

    Returns:
        Class indices on ``target``, uint8; the lower class where two have the same share.
    """
    if source == target:
        return label.astype(np.uint8)
    result = np.zeros(target.shape, np.uint8)
    largest = np.zeros(target.shape, np.float32)
    for index in np.unique(label):
        share = _resample((label == index).astype(np.float32), source, target, sitk.sitkLinear)
        wins = share > largest
        result[wins] = index
        largest[wins] = share[wins]
    return result


def _resample(voxels: np.ndarray, source: Grid, target: Grid, interpolator: int) -> np.ndarray:
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(target.shape[::-1])
    resampler.SetOutputSpacing(target.spacing[::-1])
    resampler.SetOutputOrigin(target.origin)
    resampler.SetOutputDirection(target.direction)
    resampler.SetInterpolator(interpolator)
    # Centres of coarse voxels may lie just outside of the last fine ones.
    resampler.SetUseNearestNeighborExtrapolator(True)
    image = resampler.Execute(to_itk(voxels, source))
    return sitk.GetArrayFromImage(image)
