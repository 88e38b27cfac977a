"""A cached case on the grid of its own files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from .cache import CachedCase, read_case, read_dataset
from .images import write_volume
from .label_files import write_like
from .preprocess import Geometry, Resolved, restore


class CachedOriginal:
    """What a prediction on the prepared grid is judged by: see ``types.Original``.

    Not a dataclass: Lightning would take it apart when it moves a batch to a device.

    Args:
        case: The cached case.
    """

    suffix = ".nii.gz"

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

    def write(self, predicted: np.ndarray, path: Path) -> None:
        """Write class indices ``(D', H', W')`` of the prepared grid as a label map on the raw grid.

        The file takes over the header of the raw image, as those of ``pocket infer`` do; where the raw image is gone,
        the recorded grid must do.

        Args:
            predicted: Class of each voxel of the prepared image.
            path: File to write; the suffix chooses the format.
        """
        cache = self._case.folder.parent.parent
        values = np.array(Resolved.from_dict(read_dataset(cache)["preprocessing"]).label_values, np.uint8)
        whole = restore(predicted, self._geometry)
        volume = replace(whole, array=values[whole.array])
        source = Path(read_case(cache, self._case.subject)["sources"][0]["path"])  # the first is an image
        if source.is_file():
            write_like(path, volume, source)
        else:
            write_volume(path, volume)
