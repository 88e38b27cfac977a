"""All scores of one case, class by class: a row of a table of cases."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from lightning_pocket.errors import PocketError

from .surface import bounding_box, diagonal_mm, surface_distances, volume_hd95


def score_case(
    predicted: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    spacing: Sequence[float],
    tolerance_mm: float = 1.0,
    ignore_index: int | None = None,
    surface: bool = True,
    volume: bool = False,
) -> dict[str, float | int]:
    """Score the label map that was predicted for one case.

    Policy for empty masks: a class that is empty in both label maps has a Dice of 1; for surfaces see
    :func:`~lightning_pocket.metrics.surface_distances`. The voxel counts tell such cases apart.

    Args:
        predicted: ``(D, H, W)`` or ``(H, W)`` integers, predicted class of each voxel.
        truth: True class of each voxel, the same shape.
        classes: Names of the classes; the first is background.
        spacing: Voxel size in mm along each axis.
        tolerance_mm: Tolerance of the surface Dice in mm.
        ignore_index: Value in ``truth`` of the voxels that do not count; they are background in both label maps.
        surface: Whether to compute what is measured on surfaces.
        volume: Whether to compute the volume-based HD95, ``volume_hd95_mm``, too.

    Returns:
        ``dice``, ``hd95_mm``, ``asd_mm`` and ``surface_dice``, means over the foreground classes; then the same for
        each class, as ``dice_NAME`` and so on; then the voxels of each class in the truth, ``voxels_NAME``, and in the
        prediction, ``predicted_NAME``.

    Raises:
        PocketError: If shapes, spacing or tolerance cannot be right, a value is not a class, or two classes would
            share a column.
    """
    columns = _columns(classes)
    predicted, truth = _checked(predicted, truth, len(classes), ignore_index)
    empty_mm = diagonal_mm(truth.shape, spacing) if len(spacing) == truth.ndim else None
    box = bounding_box((predicted != 0) | (truth != 0))
    predicted, truth = predicted[box], truth[box]
    confusion = _confusion(predicted, truth, len(classes))
    found, labelled, overlap = confusion.sum(axis=0), confusion.sum(axis=1), confusion.diagonal()
    scores: list[dict[str, float]] = []
    for index in range(1, len(classes)):
        total = int(found[index] + labelled[index])
        score = {"dice": 2 * int(overlap[index]) / total if total else 1.0}
        masks = predicted == index, truth == index
        if surface:
            distances = surface_distances(*masks, spacing, tolerance_mm, empty_mm)
            score |= vars(distances)
        if volume:
            score["volume_hd95_mm"] = volume_hd95(*masks, spacing, empty_mm)
        scores.append(score)
    row: dict[str, float | int] = {metric: fmean(score[metric] for score in scores) for metric in scores[0]}
    for name, score in zip(columns, scores, strict=True):
        row |= {f"{metric}_{name}": value for metric, value in score.items()}
    row |= {f"voxels_{name}": int(n) for name, n in zip(columns, labelled[1:], strict=True)}
    row |= {f"predicted_{name}": int(n) for name, n in zip(columns, found[1:], strict=True)}
    return row


def column_name(name: str) -> str:
    """Return the name of a class as the end of a column or metric name, without spaces and slashes."""
    return name.replace(" ", "_").replace("/", "_")


def _columns(classes: Sequence[str]) -> list[str]:
    columns = [column_name(name) for name in classes[1:]]
    if not columns or len(set(columns)) < len(columns):
        raise PocketError(
            f"classes: found {', '.join(classes) or 'none'}; expected background and at least one more class, whose "
            "names differ by more than spaces and slashes."
        )
    return columns


def _checked(
    predicted: np.ndarray, truth: np.ndarray, num_classes: int, ignore_index: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return both label maps with background where voxels do not count."""
    if predicted.shape != truth.shape:
        raise PocketError(f"predicted: found shape {predicted.shape}; expected {truth.shape} as in the truth.")
    if ignore_index is not None:
        ignored = truth == ignore_index
        predicted, truth = np.where(ignored, 0, predicted), np.where(ignored, 0, truth)
    for name, values in (("predicted", predicted), ("truth", truth)):
        if values.dtype.kind not in "biu":
            raise PocketError(f"{name}: found values of type {values.dtype}; expected whole numbers, the classes.")
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high >= num_classes:
            raise PocketError(f"{name}: found values from {low} to {high}; expected classes 0 to {num_classes - 1}.")
    return predicted, truth


def _confusion(predicted: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Return ``(K, K)`` voxel counts, rows are true classes and columns predicted ones."""
    pairs = truth.astype(np.intp) * num_classes + predicted.astype(np.intp)
    return np.bincount(pairs.ravel(), minlength=num_classes**2).reshape(num_classes, num_classes)
