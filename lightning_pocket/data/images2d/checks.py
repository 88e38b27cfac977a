"""Finds in one pass what is wrong with a data set of 2D images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pocket.data.checks import NO_CASE, Fault, line_faults, unlisted_faults
from lightning_pocket.data.folds import Assignment
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase, ImageLayout

from .coding import MaskCoding
from .masks import check_mask_files, read_masks
from .preprocess import ImagePreprocessing
from .read import Picture, read_picture


@dataclass(frozen=True)
class ImageInspection:
    """What was found in one image.

    Args:
        subject: The image.
        faults: What is wrong with it.
        shape: Rows and columns; None where it cannot be read.
        digest: SHA-256 of its pixels, for finding copies; None where it cannot be read.
        pixel_mm: Height and width of a pixel in mm, where that is known.
        empty: Whether nothing is marked in it.
        smoothed: Pixels of its masks whose grey value a threshold decides.
    """

    subject: str
    faults: list[Fault]
    shape: tuple[int, int] | None = None
    digest: str | None = None
    pixel_mm: tuple[float, float] | None = None
    empty: bool = False
    smoothed: int = 0


@dataclass(frozen=True)
class Examined:
    """An image that was read to be checked.

    Args:
        inspection: What was found.
        picture: The image; None where it cannot be read.
        label: ``(H, W)`` uint8 class indices of its masks; None where there are none to be read, or they cannot be.
    """

    inspection: ImageInspection
    picture: Picture | None = None
    label: np.ndarray | None = None


def inspect_image(case: ImageCase, coding: MaskCoding | None = None) -> ImageInspection:
    """Read one image, and its masks where their ``coding`` is given, and look for every kind of fault."""
    return examine(case, coding=coding).inspection


def examine(
    case: ImageCase, preprocessing: ImagePreprocessing | None = None, coding: MaskCoding | None = None
) -> Examined:
    """Read one image and look for every kind of fault.

    Args:
        case: The image.
        preprocessing: How it shall be prepared, if at all.
        coding: What the values of its masks mean; None where that is not known, and for images of known class.

    Returns:
        What was found, and what could be read.
    """
    try:
        picture = read_picture(case)
    except ImageError as error:
        return Examined(ImageInspection(case.subject, [_fault(case, error)]))
    faults = _picture_faults(case, picture, preprocessing)
    height, width = picture.pixels.shape[:2]
    mask = None
    try:
        if coding is not None:
            mask = read_masks(case, coding, (height, width))
        else:
            check_mask_files(case, (height, width))
    except ImageError as error:
        faults.append(_fault(case, error))
    content = str(picture.pixels.shape).encode() + np.ascontiguousarray(picture.pixels).tobytes()
    inspection = ImageInspection(
        case.subject,
        faults,
        (height, width),
        hashlib.sha256(content).hexdigest(),
        case.pixel_mm or picture.pixel_mm,
        empty=mask is not None and not mask.label.any(),
        smoothed=0 if mask is None else mask.smoothed,
    )
    return Examined(inspection, picture, None if mask is None else mask.label)


def _fault(case: ImageCase, error: ImageError) -> Fault:
    return Fault(case.subject, str(error.path), error.finding, error.remedy)


def _picture_faults(case: ImageCase, picture: Picture, preprocessing: ImagePreprocessing | None) -> list[Fault]:
    pixels = picture.pixels
    faults = []
    if pixels.min() == pixels.max():
        finding = f"the image is {pixels.flat[0]:g} everywhere"
        faults.append(Fault(case.subject, str(case.file), finding, "check the export of this image", "warning"))
    if preprocessing is not None and not preprocessing.accepts(picture):
        finding = f"pixels of type {pixels.dtype} have no largest value"
        faults.append(Fault(case.subject, str(case.file), finding, "use --normalization zscore or none"))
    return faults


def select(layout: ImageLayout, skip_missing: bool) -> tuple[list[ImageCase], list[Fault]]:
    """Return the images whose files are there, and what is wrong with the list of all of them.

    Args:
        layout: The data set.
        skip_missing: Whether to go on without the images whose files are missing: then they are only a warning.
    """
    cases = layout.image_cases()
    exists = {file: file.is_file() for case in cases for file in case.files}
    present = [case for case in cases if all(exists[file] for file in case.files)]
    faults = line_faults(layout) + _name_faults(cases)
    missing = [file for file, there in exists.items() if not there]
    if missing:
        of = "image and mask" if layout.masked else "image"
        finding = listed(f"{len(missing):,} of {len(exists):,} {of} files are missing", missing)
        without = [case.subject for case in cases if not all(exists[file] for file in case.files)]
        skipped = skip_missing and bool(present)
        advice = ", or go on without them with --skip_missing" if present else ""
        remedy = "none: they are left out" if skipped else f"restore them{advice}"
        faults.append(
            Fault(NO_CASE, str(missing[0]), finding, remedy, "warning" if skipped else "error", tuple(without))
        )
    if layout.unread:
        finding = f"columns that mean nothing here are not read: {', '.join(layout.unread)}"
        faults.append(
            Fault(NO_CASE, str(layout.table or layout.root), finding, "none, unless one is misspelt", "warning")
        )
    absent = set() if layout.masked else _absent(layout, present)
    for name in sorted(absent):
        finding = f"the class '{name}' has no image"
        faults.append(Fault(NO_CASE, str(layout.root), finding, "check the names of the classes", "warning"))
    return present, unlisted_faults(layout.unlisted(), faults, layout.roles)


def _absent(layout: ImageLayout, present: Sequence[ImageCase]) -> set[str]:
    return set(layout.class_names) - {case.class_name for case in present} if present else set()


def copy_faults(
    cases: Sequence[ImageCase], inspections: Sequence[ImageInspection], assignments: Iterable[Assignment]
) -> list[Fault]:
    """Return warnings of images with the same pixels that are in several folds or splits, or of several classes.

    Args:
        cases: The images.
        inspections: What was found in each.
        assignments: Fold and split of each.
    """
    copies: dict[str, list[tuple[ImageCase, str]]] = {}
    for case, found, assignment in zip(cases, inspections, assignments, strict=True):
        if found.digest is not None:
            copies.setdefault(found.digest, []).append((case, assignment.place))
    repeated = [same for same in copies.values() if len(same) > 1]
    faults = []
    keep = "keep one copy of each, or give the copies one fold or split"
    apart = [same for same in repeated if len({place for _, place in same}) > 1]
    mixed = [same for same in repeated if len({case.class_name for case, _ in same}) > 1]
    for what, remedy, parted in (
        ("are in several folds or splits", keep, apart),
        ("are of several classes", "check the labels", mixed),
    ):
        if parted:
            shown = " and ".join(case.subject for case, _ in parted[0][:3])
            noun = "image" if len(parted) == 1 else "images"
            finding = f"copies of {len(parted):,} {noun} {what}, such as {shown}"
            subjects = tuple(case.subject for same in parted for case, _ in same)
            faults.append(Fault(NO_CASE, str(parted[0][0][0].file), finding, remedy, "warning", subjects))
    return faults


def _name_faults(cases: Sequence[ImageCase]) -> list[Fault]:
    counts = Counter(case.subject for case in cases)
    faults = []
    for subject in (name for name, count in counts.items() if count > 1):
        same = [case for case in cases if case.subject == subject]
        splits = ", ".join(sorted({case.split for case in same if case.split}))
        finding = f"listed {len(same)} times" + (f" (in {splits})" if splits else "")
        other = next((f", also for {c.file.parent.name}/{c.file.name}" for c in same if c.file != same[0].file), "")
        remedy = "give each image a name of its own, and list it once"
        faults.append(Fault(subject, str(same[0].file), finding + other, remedy))
    return faults


def listed(finding: str, files: Sequence[Path], most: int = 3) -> str:
    """Return a finding with the names of the first files it is about, and their folders where names are not enough."""
    more = f" and {len(files) - most:,} more" if len(files) > most else ""
    folders = len({file.name for file in files}) < len(files)
    names = [f"{file.parent.name}/{file.name}" if folders else file.name for file in files[:most]]
    return f"{finding}: {', '.join(names)}{more}"
