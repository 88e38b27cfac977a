"""All scores of one case, class by class: a row of a table of cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from lightning_pocket.errors import PocketError

from .surface import bounding_box, diagonal_mm, surface_distances, volume_hd95


def score_case(  # noqa: PLR0913 (regions come beside the classes)
    predicted: np.ndarray,
    truth: np.ndarray,
    classes: Sequence[str],
    spacing: Sequence[float] | None,
    tolerance_mm: float = 1.0,
    ignore_index: int | None = None,
    surface: bool = True,
    volume: bool = False,
    regions: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, float | int]:
    """Score the label map that was predicted for one case.

    Policy for empty masks: a class that is empty in both label maps has a Dice of 1; for surfaces see
    :func:`~lightning_pocket.metrics.surface_distances`. The voxel counts tell such cases apart.

    Args:
        predicted: ``(D, H, W)`` or ``(H, W)`` integers, predicted class of each voxel.
        truth: True class of each voxel, the same shape.
        classes: Names of the classes; the first is background.
        spacing: Voxel size in mm along each axis; None counts in pixels: the names of distances then end in ``_px``
            rather than ``_mm``.
        tolerance_mm: Tolerance of the surface Dice in mm, or in pixels where distances are counted so.
        ignore_index: Value in ``truth`` of the voxels that do not count; they are background in both label maps.
        surface: Whether to compute what is measured on surfaces.
        volume: Whether to compute the volume-based HD95, ``volume_hd95_mm``, too.
        regions: Class indices of named parts that are scored as one mask each, such as the whole tumour of BraTS.

    Returns:
        ``dice``, ``hd95_mm``, ``asd_mm`` and ``surface_dice``, means over the foreground classes; then the same for
        each class and then each region, as ``dice_NAME`` and so on; then the voxels of each of them in the truth,
        ``voxels_NAME``, and in the prediction, ``predicted_NAME``.

    Raises:
        PocketError: If shapes, spacing or tolerance cannot be right, a value is not a class, or two classes or
            regions would share a column.
    """
    regions = regions or {}
    columns = _columns(classes, regions)
    unit = "_px" if spacing is None else "_mm"
    spacing = (1.0,) * truth.ndim if spacing is None else spacing
    predicted, truth = _checked(predicted, truth, len(classes), ignore_index)
    empty_mm = diagonal_mm(truth.shape, spacing) if len(spacing) == truth.ndim else None
    box = bounding_box((predicted != 0) | (truth != 0))
    predicted, truth = predicted[box], truth[box]
    confusion = _confusion(predicted, truth, len(classes))
    parts = [[index] for index in range(1, len(classes))] + [sorted(set(region)) for region in regions.values()]
    found = [int(confusion[:, part].sum()) for part in parts]
    labelled = [int(confusion[part].sum()) for part in parts]
    scores: list[dict[str, float]] = []
    for part, total in zip(parts, map(sum, zip(found, labelled, strict=True)), strict=True):
        score = {"dice": 2 * int(confusion[np.ix_(part, part)].sum()) / total if total else 1.0}
        masks = np.isin(predicted, part), np.isin(truth, part)
        if surface:
            distances = surface_distances(*masks, spacing, tolerance_mm, empty_mm)
            score |= {name.replace("_mm", unit): value for name, value in vars(distances).items()}
        if volume:
            score[f"volume_hd95{unit}"] = volume_hd95(*masks, spacing, empty_mm)
        scores.append(score)
    of_classes = scores[: len(classes) - 1]
    row: dict[str, float | int] = {metric: fmean(score[metric] for score in of_classes) for metric in scores[0]}
    for name, score in zip(columns, scores, strict=True):
        row |= {f"{metric}_{name}": value for metric, value in score.items()}
    row |= {f"voxels_{name}": voxels for name, voxels in zip(columns, labelled, strict=True)}
    row |= {f"predicted_{name}": voxels for name, voxels in zip(columns, found, strict=True)}
    return row


def column_name(name: str) -> str:
    """Return the name of a class as the end of a column or metric name, without spaces and slashes."""
    return name.replace(" ", "_").replace("/", "_")


def _columns(classes: Sequence[str], regions: Mapping[str, Sequence[int]]) -> list[str]:
    columns = [column_name(name) for name in (*classes[1:], *regions)]
    if len(classes) < 2 or len(set(columns)) < len(columns):
        raise PocketError(
            f"classes: found {', '.join([*classes, *regions]) or 'none'}; expected background and at least one more "
            "class; names differ by more than spaces and slashes, those of regions too."
        )
    wrong = {name: region for name, region in regions.items() if not set(region) <= set(range(1, len(classes)))}
    if wrong:
        raise PocketError(f"regions: found {wrong}; expected lists of classes, 1 to {len(classes) - 1}.")
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
