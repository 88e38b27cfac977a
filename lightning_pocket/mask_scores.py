"""Score masks of 2D images against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.checks import Fault
from lightning_pocket.data.folds import VOLUME_SUFFIXES
from lightning_pocket.data.images2d.coding import Declared, MaskCoding, parse_coding
from lightning_pocket.data.images2d.dicom import is_dicom, read_dicom
from lightning_pocket.data.images2d.mask_checks import coding_of, resolve_coding
from lightning_pocket.data.images2d.masks import mask_values, read_mask, read_masks
from lightning_pocket.data.images2d.read import opened, read_file
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts import Layout
from lightning_pocket.data.layouts.base import IGNORE
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.data.layouts.masks import MaskLayout
from lightning_pocket.data.workers import count_workers, run_tasks
from lightning_pocket.metrics.case_scores import score_case
from lightning_pocket.reports.progress import show_progress

_FEW = 10  # cases that need no progress where standard error is no terminal
_STACKS = (".tif", ".tiff")  # files that may be volumes
#: The options ``classes``, ``ignore_label``, ``tolerance_mm`` and ``volume_hd95`` of `pocket evaluate`.
Choices = tuple[str | None, int | None, float, bool]


@dataclass(frozen=True)
class MaskPair:
    """A predicted mask and the truth of one image.

    Args:
        subject: Name of the image.
        predicted: File of the prediction.
        case: The image with its true masks; of a lone mask, that is the image too.
    """

    subject: str
    predicted: Path
    case: ImageCase


@dataclass(frozen=True)
class MaskScoring:
    """How masks are scored.

    Args:
        coding: What the values of the true masks mean; those of predictions are the same.
        sizes: Height and width of the pixels of each image in mm, by subject; empty counts in pixels.
        tolerance: Tolerance of the surface Dice, in mm or pixels.
        volume_hd95: Whether to compute the volume-based HD95 too.
    """

    coding: MaskCoding
    sizes: dict[str, tuple[float, float]]
    tolerance: float
    volume_hd95: bool


def is_flat(file: Path) -> bool:
    """Tell whether a file is a 2D image; volumes have names of their own, or several frames."""
    if not file.is_file() or file.name.lower().endswith(VOLUME_SUFFIXES):
        return False
    if not file.name.lower().endswith(_STACKS):
        return True
    try:
        with opened(file):
            return True
    except ImageError:
        return False


def score_images(
    pairs: Sequence[MaskPair], layout: Layout | None, choices: Choices, workers: int | None
) -> tuple[list[dict[str, Any] | Fault], str]:
    """Score many images.

    Args:
        pairs: Predictions and truths.
        layout: The data set that the truth is from, if it is from one.
        choices: What the user says of the scores.
        workers: Number of processes; None for one per CPU core.

    Returns:
        A row for each image, or why it cannot be scored; and the unit of distances, ``mm`` or ``pixels``.

    Raises:
        PocketError: If the classes of the truth are wrong, or cannot be found out.
    """
    classes, ignore_label, tolerance, volume_hd95 = choices
    declared, cases = parse_coding(classes) if classes else Declared(), [pair.case for pair in pairs]
    if isinstance(layout, MaskLayout):
        coding = resolve_coding(layout, declared, cases, workers, show_progress)
    else:
        files = [file for case in cases for file in case.masks]
        coding = coding_of(files, declared, MaskLayout.foreground, workers, show_progress)
    sizes = pixel_sizes(cases)
    scoring = MaskScoring(with_ignored(coding, ignore_label), sizes, tolerance, volume_hd95)
    return run(partial(score_masks, scoring=scoring), pairs, workers, "scoring"), "mm" if sizes else "pixels"


def run(function: Any, pairs: Sequence[Any], workers: int | None, description: str) -> list[Any]:
    """Apply a function to every pair, and show how far it is.

    Args:
        function: A function of a module.
        pairs: Its arguments.
        workers: Number of processes; None for one per CPU core.
        description: What is being done.
    """
    with show_progress(description, len(pairs), lines=len(pairs) > _FEW) as advance:
        return run_tasks(function, pairs, count_workers(workers, len(pairs)), advance)


def pixel_sizes(cases: Sequence[ImageCase]) -> dict[str, tuple[float, float]]:
    """Return height and width of the pixels of each image in mm; nothing where that is not known of all."""
    sizes = {}
    for case in cases:
        size = case.pixel_mm
        if size is None and case.file.is_file() and is_dicom(case.file):
            size = read_dicom(case.file)[2]
        if size is None:
            return {}
        sizes[case.subject] = size
    return sizes


def with_ignored(coding: MaskCoding, value: int | None) -> MaskCoding:
    """Return the coding with a value of the truth that does not count."""
    if value is None:
        return coding
    kind = "values" if coding.kind == "threshold" else coding.kind
    labels = {known: name for known, name in coding.labels.items() if known != value} | {value: IGNORE}
    return replace(coding, kind=kind, labels=dict(sorted(labels.items())))


def score_masks(pair: MaskPair, scoring: MaskScoring) -> dict[str, Any] | Fault:
    """Score one image.

    Args:
        pair: Prediction and truth.
        scoring: How.

    Returns:
        Its row, or why it cannot be scored.
    """
    try:
        truth = _truth(pair, scoring.coding)
        predicted = _predicted(pair, scoring.coding)
        if predicted.shape != truth.shape:
            sizes = [" x ".join(map(str, label.shape)) for label in (predicted, truth)]
            finding = f"is {sizes[0]} pixels (H x W), the truth {sizes[1]}"
            raise ImageError(pair.predicted, finding, "bring the prediction to the size of the truth")
        scores = score_case(
            predicted,
            truth,
            classes=scoring.coding.classes,
            spacing=scoring.sizes.get(pair.subject),
            tolerance_mm=scoring.tolerance,
            ignore_index=scoring.coding.ignore_index,
            volume=scoring.volume_hd95,
        )
    except ImageError as error:
        return Fault(pair.subject, str(error.path), error.finding, error.remedy)
    return {"subject": pair.subject, **scores}


def _truth(pair: MaskPair, coding: MaskCoding) -> np.ndarray:
    case = pair.case
    if case.masks == (case.file,):
        mask = read_mask(case.file, coding)
    else:
        mask = read_masks(case, coding, read_file(case.file).pixels.shape[:2])
    if coding.kind != "threshold" and mask.strange:
        raise ImageError(case.masks[0], *_unknown(mask.strange, coding))
    return mask.label


def _predicted(pair: MaskPair, coding: MaskCoding) -> np.ndarray:
    mask = read_mask(pair.predicted, replace(coding, outlined=False))
    if coding.kind != "threshold" and mask.strange:
        raise ImageError(pair.predicted, *_unknown(mask.strange, coding))
    if coding.kind == "threshold":
        highest, expected = mask_values(pair.predicted)[1][-1], max(coding.labels)
        if highest not in (0, expected):  # 1 for the 255 of the truth would count as nothing
            finding = f"its largest value is {highest}, that of the truth {expected}"
            raise ImageError(pair.predicted, finding, "write it with the values of the truth")
    return mask.label


def _unknown(values: Sequence[int], coding: MaskCoding, most: int = 5) -> tuple[str, str]:
    listed = ", ".join(map(coding.show, values[:most])) + (", ..." if len(values) > most else "")
    known = ", ".join(map(coding.show, coding.labels))
    return f"label values that are no class ({listed})", f"classes are {known}: mend it or --classes"
