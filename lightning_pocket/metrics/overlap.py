"""Scores of a whole data set from one confusion matrix: mean IoU, recall and precision.

All voxels count alike, whichever image they are in; a mean over cases would be another number. So are street scenes
scored: the Pascal VOC's IoU, summed over images (Everingham et al., IJCV 2010; Cordts et al., CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_pocket.errors import PocketError

from .case_scores import column_name


@dataclass(frozen=True)
class OverlapScores:
    """Scores of each class, each ``(K,)`` float64 in [0, 1]; NaN for a class that is neither in truth nor prediction.

    A class that is in one of the two alone has the IoU, recall and precision 0.

    Args:
        iou: Voxels that both share, over those that one of them has.
        recall: The same over those of the truth.
        precision: The same over those of the prediction.
        voxels: ``(K,)`` int64 voxels of the truth.
        predicted: ``(K,)`` int64 voxels of the prediction.
        accuracy: Share of all voxels that have their true class.
    """

    iou: np.ndarray
    recall: np.ndarray
    precision: np.ndarray
    voxels: np.ndarray
    predicted: np.ndarray
    accuracy: float

    def means(self) -> dict[str, float]:
        """Return ``miou``, ``mean_recall``, ``mean_precision`` over the classes that occur, and ``pixel_accuracy``."""
        named = {"miou": self.iou, "mean_recall": self.recall, "mean_precision": self.precision}
        found = {name: float(np.nanmean(values)) if self.occurs.any() else np.nan for name, values in named.items()}
        return found | {"pixel_accuracy": self.accuracy}

    @property
    def occurs(self) -> np.ndarray:
        """Which classes are in the truth or the prediction, ``(K,)`` bool."""
        return (self.voxels + self.predicted) > 0

    def of_classes(self, classes: Sequence[str]) -> dict[str, float]:
        """Return ``iou_NAME`` of every class."""
        return {f"iou_{column_name(name)}": float(iou) for name, iou in zip(classes, self.iou, strict=True)}

    def rows(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row of a table for each class: name, IoU, recall, precision, and voxels of truth and prediction."""
        columns = zip(classes, self.iou, self.recall, self.precision, self.voxels, self.predicted, strict=True)
        names = ("class", "iou", "recall", "precision", "voxels", "predicted")
        return [dict(zip(names, (cells[0], *(cell.item() for cell in cells[1:])), strict=True)) for cells in columns]


def overlap_scores(confusion: np.ndarray) -> OverlapScores:
    """Score a data set.

    Args:
        confusion: ``(K, K)`` counts of voxels of all images, rows are true classes and columns predicted ones.

    Returns:
        The scores of each class.

    Raises:
        PocketError: If it is not a square table of numbers from 0.
    """
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1] or (confusion < 0).any():
        raise PocketError(f"confusion: found shape {confusion.shape}; expected a square table of counts from 0.")
    shared, voxels, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    either = voxels + predicted - shared

    def share(whole: np.ndarray) -> np.ndarray:
        part = np.divide(shared, whole, out=np.zeros(len(shared)), where=whole > 0)
        return np.where(either > 0, part, np.nan)

    total = int(confusion.sum())
    accuracy = float(shared.sum() / total) if total else float("nan")
    return OverlapScores(share(either), share(voxels), share(predicted), voxels, predicted, accuracy)
