"""Removal of small islands from a prediction."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from lightning_pocket.errors import PocketError

#: Stands for all classes but background together, where a class of its own is not called so.
FOREGROUND = "foreground"


def remove_islands(label: np.ndarray, largest_component: bool | Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """Apply the setting ``largest_component`` of a task to a prediction.

    Args:
        label: ``(D, H, W)`` or ``(H, W)`` class indices, 0 is background.
        largest_component: True keeps the largest connected component of each class, False keeps everything; names
            are those of the classes to treat so, and ``foreground`` before them keeps the largest component of all
            classes together.
        classes: Names of the classes, background first.

    Returns:
        The same shape and type; the argument is not changed.
    """
    if isinstance(largest_component, bool):
        return keep_largest(label) if largest_component else label
    check_names(largest_component, classes)
    if FOREGROUND in largest_component and FOREGROUND not in classes:
        label = np.where(keep_largest((label != 0).astype(np.uint8)) != 0, label, label.dtype.type(0))
    chosen = [index for index, name in enumerate(classes) if name in largest_component]
    return keep_largest(label, chosen) if chosen else label


def check_names(largest_component: bool | Sequence[str], classes: Sequence[str]) -> None:
    """Refuse names that are no classes.

    Raises:
        PocketError: If there are such names.
    """
    known = [*classes[1:], FOREGROUND]
    unknown = [] if isinstance(largest_component, bool) else [n for n in largest_component if n not in known]
    if unknown:
        raise PocketError(
            f"model.init_args.largest_component: there is no class {unknown[0]!r}; give true, false, or some of "
            f"{', '.join(known)}."
        )


def keep_largest(label: np.ndarray, classes: Collection[int] | None = None) -> np.ndarray:
    """Keep the largest connected component of each class; what is removed becomes background.

    Voxels are connected where they share a face, an edge or a corner. The first of equally large components is kept.

    Args:
        label: ``(D, H, W)`` or ``(H, W)`` class indices, 0 is background.
        classes: The classes to treat so; None for all of them.

    Returns:
        The same shape and type; the argument is not changed.
    """
    from scipy import ndimage

    kept = label.copy()
    around = np.ones((3,) * label.ndim, bool)
    # Only the box around a class is looked at: numbering components takes four bytes a voxel.
    for index, box in enumerate(ndimage.find_objects(label), start=1):
        if box is None or (classes is not None and index not in classes):
            continue
        components, count = ndimage.label(label[box] == index, around)
        if count > 1:
            sizes = np.bincount(components.ravel())[1:]
            kept[box][(components > 0) & (components != 1 + sizes.argmax())] = 0
    return kept
