"""Score masks of 2D images against the truth."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
from lightning_pocket.data.images2d.masks import read_mask, read_masks
from lightning_pocket.data.images2d.read import opened, read_file
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts import Layout
from lightning_pocket.data.layouts.base import IGNORE
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.data.layouts.masks import MaskLayout
from lightning_pocket.data.workers import count_workers, run_tasks
from lightning_pocket.errors import PocketError
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
        empty_classes: Classes of images that need no mask; see ``MaskLayout``.
        sizes: Height and width of the pixels of each image in mm, by subject; empty counts in pixels.
        tolerance: Tolerance of the surface Dice, in mm or pixels.
        volume_hd95: Whether to compute the volume-based HD95 too.
    """

    coding: MaskCoding
    empty_classes: Collection[str]
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
    pairs: Sequence[MaskPair], truths: Sequence[Path], layout: Layout | None, choices: Choices, workers: int | None
) -> tuple[list[dict[str, Any] | Fault], str]:
    """Score many images.

    Args:
        pairs: Predictions and truths.
        truths: Every true mask of the folder, which decide the classes; those of a data set are known.
        layout: The data set that the truth is from, if it is from one.
        choices: What the user says of the scores.
        workers: Number of processes; None for one per CPU core.

    Returns:
        A row for each image, or why it cannot be scored; and the unit of distances, ``mm`` or ``pixels``.

    Raises:
        PocketError: If the classes of the truth are wrong, or cannot be found out.
    """
    classes, ignore_label, tolerance, volume_hd95 = choices
    declared = parse_coding(classes) if classes else Declared()
    empty: Collection[str] = ()
    # Of all masks: some of them may lack a class, whose value would then be taken for another one.
    if isinstance(layout, MaskLayout):
        empty = layout.empty_classes
        coding = resolve_coding(layout, declared, layout.image_cases(), workers, show_progress, ignore_label)
    else:
        coding = coding_of(truths, declared, MaskLayout.foreground, workers, show_progress, ignore_label)
    sizes = pixel_sizes([pair.case for pair in pairs])
    scoring = MaskScoring(with_ignored(coding, ignore_label), empty, sizes, tolerance, volume_hd95)
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
    """Return height and width of the pixels of each image in mm; nothing where that is not known of all.

    Images that cannot be read, and so not scored, do not count.
    """
    sizes = {}
    for case in cases:
        size = case.pixel_mm
        if size is None and is_dicom(case.file):
            try:
                size = read_dicom(case.file)[2]
            except ImageError:
                continue
        if size is None:
            return {}
        sizes[case.subject] = size
    return sizes


def with_ignored(coding: MaskCoding, value: int | None) -> MaskCoding:
    """Return the coding with a value of the truth that does not count.

    Raises:
        PocketError: If nothing else is left.
    """
    if value is None:
        return coding
    kind = "values" if coding.kind == "threshold" else coding.kind
    labels = {known: name for known, name in coding.labels.items() if known != value} | {value: IGNORE}
    found = replace(coding, kind=kind, labels=labels)
    if len(found.classes) < 2:
        raise PocketError(f"ignore_label: without {value} there is no class left to score; mend it or --classes.")
    return found


def score_masks(pair: MaskPair, scoring: MaskScoring) -> dict[str, Any] | Fault:
    """Score one image.

    Args:
        pair: Prediction and truth.
        scoring: How.

    Returns:
        Its row, or why it cannot be scored.
    """
    try:
        truth = _truth(pair, scoring)
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


def _truth(pair: MaskPair, scoring: MaskScoring) -> np.ndarray:
    case = pair.case
    if case.masks == (case.file,):
        return read_mask(case.file, scoring.coding).label
    if not case.masks and case.class_name not in scoring.empty_classes:
        raise ImageError(case.file, "has no mask", "add one, an empty one if there is nothing to mark")
    return read_masks(case, scoring.coding, read_file(case.file).pixels.shape[:2]).label


def _predicted(pair: MaskPair, coding: MaskCoding) -> np.ndarray:
    """Read a prediction, whose values must be those of the truth: 1 for its 255 would count as nothing."""
    kind = "values" if coding.kind == "threshold" else coding.kind
    return read_mask(pair.predicted, replace(coding, kind=kind, outlined=False)).label
