"""Finds what is wrong with a label map, and whether its file is a label map at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_pocket.data.layouts.base import ignored_value, uncounted_values

_LABEL_VALUES = 256  # a label map is stored as one byte per voxel
_REPLACE = "put the label map of this case in its place"


@dataclass(frozen=True)
class Finding:
    """What is wrong with a label map.

    Args:
        text: What is wrong, as a clause.
        remedy: How to mend it.
        severity: A data set with an error cannot be prepared.
    """

    text: str
    remedy: str
    severity: Literal["error", "warning"] = "error"


def check_label(label: np.ndarray, labels: Mapping[int, str] | None, notes: Mapping[int, str]) -> Finding | None:
    """Look for wrong values in a label map.

    Args:
        label: ``(D, H, W)``, as stored.
        labels: Name of the class of each raw label value; None accepts any value from 0 to 255.
        notes: What values that are not declared usually are, and how to declare them.

    Returns:
        The first thing that is wrong, or None.
    """
    values = np.unique(label)
    fractions = values[~np.isfinite(values) | (values != np.round(values))]
    outside = values[(values < 0) | (values >= _LABEL_VALUES)]
    if outside.size and values.size > _LABEL_VALUES:
        return Finding(f"looks like an image: {values.size:,} different values ({_listed(values)})", _REPLACE)
    if fractions.size:
        remedy = "store whole numbers; resample labels with nearest neighbours"
        return Finding(f"label values are not whole numbers ({_listed(fractions)})", remedy)
    if outside.size:
        return Finding(f"label values outside 0 to 255 ({_listed(outside)})", "renumber the labels from 0")
    undeclared = values if labels is None else values[~np.isin(values, list(labels))]
    if labels is not None and undeclared.size:
        return Finding(f"undeclared label values ({_listed(undeclared)})", _declare(undeclared, labels, notes))
    counted = values[values != ignored_value(labels)]
    if not counted.size:
        return Finding("every voxel is ignored", "label some of them, or take out the case")
    if np.isin(counted, list(uncounted_values(labels))).all():
        return Finding("the label is empty", "right only if nothing is to be found here", "warning")
    return None


def mistaken_file(
    label: np.ndarray, image: np.ndarray, files: Sequence[Path], labels: Mapping[int, str] | None
) -> Finding | None:
    """Look for a label map whose file is in truth that of an image of the same case.

    Args:
        label: ``(D, H, W)``, as stored, with values that no label map of this data set has.
        image: ``(C, D, H, W)``.
        files: File of each channel, or one of all channels.
        labels: Name of the class of each raw label value; None where undeclared.

    Returns:
        What the file is, or None.
    """
    parts = [image] if len(files) == 1 else list(image[:, None])
    for file, part in zip(files, parts, strict=True):
        if labels is not None and part.any() and np.isin(part, list(labels)).all():
            return Finding(f"looks like an image, and {file.name} like a label", "exchange the names of the two files")
    for index, channel in enumerate(image):
        if np.array_equal(label.astype(channel.dtype), channel):
            name = files[index if len(files) > 1 else 0].name
            return Finding(f"looks like an image: it has the voxels of {name}", _REPLACE)
    return None


def _declare(undeclared: np.ndarray, labels: Mapping[int, str], notes: Mapping[int, str]) -> str:
    known = [notes[value] for value in undeclared.astype(int).tolist() if value in notes]
    other = ["declare the value with --classes NAME=VALUE or mend the file"] if len(known) < undeclared.size else []
    return f"declared are {', '.join(map(str, labels))}: {'; '.join(known + other)}"


def _listed(values: np.ndarray, most: int = 5) -> str:
    return ", ".join(f"{value:g}" for value in values[:most].tolist()) + (", ..." if values.size > most else "")
