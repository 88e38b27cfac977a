"""A cached case on the grid of its own files."""

from __future__ import annotations

import numpy as np

from .cache import CachedCase
from .preprocess import Geometry, restore


class CachedOriginal:
    """What a prediction on the prepared grid is judged by: see ``types.Original``.

    Not a dataclass: Lightning would take it apart when it moves a batch to a device.

    Args:
        case: The cached case.
    """

    def __init__(self, case: CachedCase) -> None:
        self._case = case
        self._geometry = Geometry.from_dict(case.geometry)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size of the raw image in mm along (D, H, W)."""
        return self._geometry.source.spacing

    def label(self) -> np.ndarray:
        """Return the label ``(D, H, W)`` on the raw grid, uint8 class indices."""
        return self._case.truth()

    def restore(self, predicted: np.ndarray) -> np.ndarray:
        """Bring class indices ``(D', H', W')`` from the prepared grid to the raw one, ``(D, H, W)`` uint8."""
        return restore(predicted, self._geometry).array
