"""Intensity normalization of one channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

_CHUNK = 1 << 20  # voxels in double precision at a time

Method = Literal["zscore", "nonzero_zscore", "clip_zscore", "none"]


@dataclass(frozen=True)
class Normalization:
    """What is done to one channel.

    Args:
        method: "zscore" and "nonzero_zscore" use the mean and std of the image itself; "clip_zscore" clips to
            ``[low, high]``, subtracts ``mean`` and divides by ``std``; "none" does nothing.
        low: Lowest intensity kept.
        high: Highest intensity kept.
        mean: Subtracted from each voxel.
        std: Each voxel is divided by it.
    """

    method: Method
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    std: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types."""
        return asdict(self)


def _foreground_zscore(foreground: Mapping[str, float], _window: Sequence[float] | None) -> Normalization:
    low, high = foreground["percentile_00_5"], foreground["percentile_99_5"]
    return Normalization("clip_zscore", low, high, foreground["mean"], foreground["std"])


def _window(_foreground: Mapping[str, float], window: Sequence[float] | None) -> Normalization:
    low, high = window or (0.0, 1.0)
    return Normalization("clip_zscore", low, high, mean=low, std=high - low)


# What each name of the settings becomes, given the labelled foreground of the data set and the window.
METHODS: dict[str, Callable[[Mapping[str, float], Sequence[float] | None], Normalization]] = {
    "zscore": lambda _foreground, _window: Normalization("zscore"),
    "nonzero_zscore": lambda _foreground, _window: Normalization("nonzero_zscore"),
    "foreground_zscore": _foreground_zscore,
    "window": _window,
    "none": lambda _foreground, _window: Normalization("none"),
}


def normalize(voxels: np.ndarray, normalization: Normalization, inside: np.ndarray | None = None) -> np.ndarray:
    """Normalise one channel.

    Args:
        voxels: Intensities ``(D, H, W)``.
        normalization: What to do.
        inside: Boolean ``(D, H, W)``, the voxels that "nonzero_zscore" counts; the others become 0.

    Returns:
        ``(D, H, W)`` float32. An image without contrast becomes 0 everywhere.
    """
    if normalization.method == "none":
        return voxels.astype(np.float32)
    clip = normalization.method == "clip_zscore"
    if clip:
        mean, std = normalization.mean or 0.0, normalization.std or 0.0
    else:
        mean, std = _mean_and_std(voxels if inside is None else voxels[inside])
    scaled = np.zeros(voxels.shape, np.float32)
    # Rounding alone gives a constant image of large value a std above 0.
    if std > 1e-7 * max(1.0, abs(mean)):
        for plane, result in zip(voxels, scaled, strict=True):  # plane by plane: float64 takes twice the memory
            wide = plane.astype(np.float64)
            if clip:
                wide = np.clip(wide, normalization.low, normalization.high)
            result[:] = (wide - mean) / std
    if inside is not None:
        scaled[~inside] = 0
    return scaled


def _mean_and_std(voxels: np.ndarray) -> tuple[float, float]:
    """Return mean and standard deviation in double precision, without a copy in double precision; 0 for no voxels."""
    if not voxels.size:
        return 0.0, 0.0
    flat = voxels.ravel()
    mean = float(flat.mean(dtype=np.float64))
    parts = (flat[first : first + _CHUNK].astype(np.float64) for first in range(0, len(flat), _CHUNK))
    squares = sum(float(np.square(part - mean).sum()) for part in parts)
    return mean, (squares / len(flat)) ** 0.5
