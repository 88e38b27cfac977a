"""Removal of small islands from a prediction."""

from __future__ import annotations

import numpy as np


def keep_largest(label: np.ndarray) -> np.ndarray:
    """Keep the largest connected component of each class; what is removed becomes background.

    Voxels are connected where they share a face, an edge or a corner. The first of equally large components is kept.

    Args:
        label: ``(D, H, W)`` or ``(H, W)`` class indices, 0 is background.

    Returns:
        The same shape and type; the argument is not changed.
    """
    from scipy import ndimage

    kept = label.copy()
    around = np.ones((3,) * label.ndim, bool)
    # Only the box around a class is looked at: numbering components takes four bytes a voxel.
    for index, box in enumerate(ndimage.find_objects(label), start=1):
        if box is None:
            continue
        components, count = ndimage.label(label[box] == index, around)
        if count > 1:
            sizes = np.bincount(components.ravel())[1:]
            kept[box][(components > 0) & (components != 1 + sizes.argmax())] = 0
    return kept
