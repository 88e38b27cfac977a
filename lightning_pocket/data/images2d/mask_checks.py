"""What is wrong with the masks of a data set as a whole, and what their values mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lightning_pocket.data.checks import NO_CASE, UNFIT_NAME, Fault, name_faults
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.data.layouts.index import INDEX
from lightning_pocket.data.layouts.masks import MaskLayout
from lightning_pocket.data.workers import Progress, count_workers, run_tasks

from .checks import ImageInspection, listed
from .coding import Declared, MaskCoding
from .mask_values import MaskValues, find_coding, mask_values

Severity = Literal["error", "warning"]


def list_faults(layout: MaskLayout, cases: Sequence[ImageCase], unlabelled_as_background: bool) -> list[Fault]:
    """Return what is wrong with the names of the images, and with having no mask or no line in the index.

    Args:
        layout: The data set.
        cases: Its images whose files are there.
        unlabelled_as_background: Whether an image without a mask is one in which there is nothing to mark.
    """
    faults = [fault for fault in name_faults(cases) if fault.finding == UNFIT_NAME]  # results are files of the name
    bare = [case for case in cases if not case.masks and case.class_name not in layout.empty_classes]
    if bare:
        finding, files = f"{len(bare):,} of {len(cases):,} images have no mask", [case.file for case in bare]
        if unlabelled_as_background and len(bare) < len(cases):
            remedy = "none: there is nothing to mark in them, as you say"
            faults.append(_grouped(finding, bare, files, remedy, "warning"))
        else:
            nothing = ": there is nothing to learn without any"
            advice = ", or say --unlabelled_as_background if there is nothing to mark in them"
            remedy = f"add them{nothing if unlabelled_as_background else advice}"
            faults.append(_grouped(finding, bare, files, remedy, "error"))
    if layout.unindexed:
        finding = f"{len(layout.unindexed):,} of {len(layout.image_cases()):,} images have no line in {INDEX}"
        remedy = "add them: without a group an image counts as independent of the others"
        files = [case.file for case in layout.unindexed]
        faults.append(_grouped(finding, layout.unindexed, files, remedy, "warning"))
    return faults


def summary_faults(cases: Sequence[ImageCase], inspections: Sequence[ImageInspection]) -> list[Fault]:
    """Return what is to be said of all masks in which nothing is marked, and of all that have smoothed edges.

    Args:
        cases: The images.
        inspections: What was found in each.

    Returns:
        Warnings; that all masks are empty is an error.
    """
    faults = []
    masked = [(case, found) for case, found in zip(cases, inspections, strict=True) if case.masks]
    empty = [case for case, found in masked if found.empty]
    if empty:
        every = len(empty) == len(masked)
        wrong = "there is nothing to learn: look for the right masks"
        right = "right only if nothing is to be found there"
        finding, files = f"{len(empty):,} of {len(masked):,} masks are empty", [case.masks[0] for case in empty]
        faults.append(_grouped(finding, empty, files, wrong if every else right, "error" if every else "warning"))
    smoothed = [case for case, found in masked if found.smoothed]
    if smoothed:
        number = f"{len(smoothed):,} of {len(masked):,} masks"
        finding = f"{number} have grey values between background and class, cut at half"
        remedy = "right for smoothed edges and JPEG; if the greys are classes, declare them with --classes NAME=VALUE"
        faults.append(_grouped(finding, smoothed, [case.masks[0] for case in smoothed], remedy, "warning"))
    return faults


def _grouped(finding: str, cases: Sequence[ImageCase], files: Sequence[Path], remedy: str, severity: Severity) -> Fault:
    """Return one fault of several images, which names the first of these files."""
    subjects = tuple(case.subject for case in cases)
    return Fault(NO_CASE, str(files[0]), listed(finding, files), remedy, severity, subjects)


def resolve_coding(
    layout: MaskLayout,
    declared: Declared,
    cases: Sequence[ImageCase],
    workers: int | None,
    progress: Progress,
    ignored: int | None = None,
) -> MaskCoding:
    """Return what the values of the masks of a data set mean: as the user or the layout declares, else as found.

    Args:
        layout: The data set.
        declared: What the user says.
        cases: The images.
        workers: See :func:`coding_of`.
        progress: See :func:`coding_of`.
        ignored: See :func:`coding_of`.

    Raises:
        ImageError: If it cannot be found out from the values of a mask.
        PocketError: If what the user says does not fit them.
    """
    if layout.labels is not None and declared == Declared():
        return MaskCoding("colours" if layout.coloured else "values", dict(layout.labels), layout.outlined)
    files = [file for case in cases for file in case.masks]
    coding = coding_of(files, declared, layout.foreground, workers, progress, ignored)
    return replace(coding, outlined=layout.outlined)


def coding_of(
    files: Sequence[Path],
    declared: Declared,
    foreground: str,
    workers: int | None,
    progress: Progress,
    ignored: int | None = None,
) -> MaskCoding:
    """Return what the values of masks mean: as declared, else as they are found.

    Args:
        files: The masks.
        declared: What the user says.
        foreground: Name of what masks of two values mark, where nobody says.
        workers: Number of processes; None for one per CPU core.
        progress: Shows how far the work is.
        ignored: Value of pixels that do not count.

    Raises:
        ImageError: If it cannot be found out from the values of a mask.
        PocketError: If what the user says does not fit them.
    """
    if declared.coding is not None:
        return declared.coding
    with progress("reading classes", len(files)) as advance:
        results = run_tasks(_values, files, count_workers(workers, len(files)), advance)
    found = [result for result in results if result is not None]  # what cannot be read is reported by the check
    return find_coding(found, foreground, declared.names, ignored)


def _values(path: Path) -> MaskValues | None:
    try:
        return mask_values(path)
    except ImageError:
        return None
