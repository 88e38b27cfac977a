"""Find what is wrong with a raw data set, in one pass and one table."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lightning_pocket.data.checks import (
    NO_CASE,
    Fault,
    Inspection,
    found_labels,
    group_faults,
    inspect,
    line_faults,
    name_faults,
    parse_classes,
    unlisted_faults,
)
from lightning_pocket.data.copies import volume_copies
from lightning_pocket.data.folds import SPLITS
from lightning_pocket.data.groups import describe_groups
from lightning_pocket.data.images2d.checks import ImageInspection, copy_faults, inspect_image, select
from lightning_pocket.data.images2d.coding import Declared, MaskCoding, parse_coding
from lightning_pocket.data.images2d.mask_checks import list_faults, resolve_coding, summary_faults
from lightning_pocket.data.images2d.read import unpack
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts import Case, Layout, find_layout
from lightning_pocket.data.layouts.base import class_values
from lightning_pocket.data.layouts.images import ImageCase, ImageLayout, parse_class_names
from lightning_pocket.data.layouts.masks import MaskLayout
from lightning_pocket.data.workers import count_workers, run_tasks
from lightning_pocket.errors import PocketError
from lightning_pocket.reports.progress import show_progress
from lightning_pocket.reports.tables import print_table


def check(
    data: str,
    layout: str = "auto",
    classes: str | None = None,
    workers: int | None = None,
    skip_missing: bool = False,
    unlabelled_as_background: bool = False,
) -> None:
    """Find what is wrong with a raw data set, in one pass and one table.

    Args:
        data: Folder of the data set, or its CSV or .npz file, or digits for the images that scikit-learn brings along.
        layout: decathlon, nnunet, table, lits, nfbs, brats2020 for volumes; image_masks, mask_table, hc18, busi for 2D
            images with masks; covidx, image_table, image_folders, medmnist, mnist, cifar, digits for 2D images of
            known class; or auto to find the one that matches.
        classes: Names of the classes in the order of the label values 0, 1, 2 and so on, separated by commas and
            with background first; NAME=VALUE sets another value, NAME=1+4 merges values into one class. By
            default those of the layout, and any value where it declares nothing. For masks of 2D images the first class
            is the background whatever its value; two names are those of background and the rest, whichever their
            values; and NAME=#RRGGBB gives classes colours. For 2D images of known class, the order of the classes.
        workers: Number of processes; one per CPU core by default. Each holds one case in memory.
        skip_missing: Go on without 2D images, or masks, that are listed but not there.
        unlabelled_as_background: Take 2D images without a mask as images in which there is nothing to mark.

    Raises:
        SystemExit: With status 1 if there is an error; warnings alone give status 0.
    """
    found = find_layout(data, layout, keep_faulty=True)
    if isinstance(found, ImageLayout):
        _check_images(found, classes, workers, skip_missing, unlabelled_as_background)
        return
    if skip_missing or unlabelled_as_background:
        name = "skip_missing" if skip_missing else "unlabelled_as_background"
        raise PocketError(f"{name}: is for 2D images; {data} is a data set of volumes ({found.name}).")
    labels = parse_classes(classes) if classes else found.classes
    cases = found.cases()
    inspections, faults = check_volumes(found, cases, labels, workers)
    stop_on_errors(faults, len(cases), found.root)
    print(_summary(inspections, found.channels, labels or found_labels(inspections)))
    if not classes and labels != found.labels:
        print(f"merged as is usual for {found.name}; kept apart with --classes {_option(found.labels or {})}")
    print(describe_groups((case.group for case in cases), "case"))


def _check_images(
    layout: ImageLayout, classes: str | None, workers: int | None, skip_missing: bool, unlabelled_as_background: bool
) -> None:
    declared = declare_classes(layout, classes)
    cases, faults = select_images(layout, skip_missing, unlabelled_as_background)
    coding, unclear = mask_coding(layout, declared, cases, workers)
    inspections, found = check_images(cases, workers, coding)
    stop_on_errors(faults + unclear + found, len(layout.image_cases()), layout.root)
    print(_image_summary(cases, inspections, layout, coding))
    print(describe_groups((case.group for case in cases), "image"))


def declare_classes(layout: ImageLayout, classes: str | None) -> Declared:
    """Tell a data set of 2D images what the user says of its classes.

    Args:
        layout: The data set; that of known classes takes their order.
        classes: The option ``--classes``.

    Returns:
        What is said of the values of masks.

    Raises:
        PocketError: If it is wrong.
    """
    if not classes:
        return Declared()
    if layout.masked:
        return parse_coding(classes)
    layout.choose_classes(parse_class_names(classes))
    return Declared()


def select_images(
    layout: ImageLayout, skip_missing: bool, unlabelled_as_background: bool
) -> tuple[list[ImageCase], list[Fault]]:
    """Return the images whose files are there, and what is wrong with the list of all of them.

    Args:
        layout: The data set.
        skip_missing: Whether to go on without the images whose files are missing.
        unlabelled_as_background: Whether an image without a mask is one in which there is nothing to mark.

    Raises:
        PocketError: If an option means nothing for this data set.
    """
    cases, faults = select(layout, skip_missing)
    if isinstance(layout, MaskLayout):
        return cases, faults + list_faults(layout, cases, unlabelled_as_background)
    if unlabelled_as_background:
        raise PocketError(f"unlabelled_as_background: is for masks; {layout.root} has classes ({layout.name}).")
    return cases, faults


def mask_coding(
    layout: ImageLayout, declared: Declared, cases: Sequence[ImageCase], workers: int | None
) -> tuple[MaskCoding | None, list[Fault]]:
    """Return what the values of masks mean; see ``resolve_coding``.

    Returns:
        The meaning, None for images of known class; where the masks do not show it, None too, and why.

    Raises:
        PocketError: If what the user says does not fit the masks.
    """
    if not isinstance(layout, MaskLayout):
        return None, []
    try:
        return resolve_coding(layout, declared, cases, workers, show_progress), []
    except ImageError as error:
        return None, [Fault(NO_CASE, str(error.path), error.finding, error.remedy)]


def check_volumes(
    layout: Layout, cases: Sequence[Case], labels: dict[int, str] | None, workers: int | None
) -> tuple[list[Inspection], list[Fault]]:
    """Read every volume and look for every kind of fault.

    Args:
        layout: The data set.
        cases: Its cases.
        labels: Name of the class of each raw label value; None accepts any value from 0 to 255.
        workers: Number of processes; None for one per CPU core.

    Returns:
        What was found in each case, and every fault of the data set.
    """
    task = partial(_inspect, channels=tuple(layout.channels), labels=labels, notes=layout.notes)
    with show_progress("checking", len(cases)) as advance:
        inspections = run_tasks(task, cases, count_workers(workers, len(cases)), advance)
    faults = line_faults(layout) + name_faults(cases) + group_faults(cases)
    faults += [fault for inspection in inspections for fault in inspection.faults]
    faults += volume_copies(cases, inspections, (case.assignment for case in cases))
    return inspections, unlisted_faults(layout.unlisted(), faults, layout.roles)


def check_images(
    cases: Sequence[ImageCase], workers: int | None, coding: MaskCoding | None = None
) -> tuple[list[ImageInspection], list[Fault]]:
    """Read every 2D image and look for every kind of fault of images, masks, groups and splits.

    Args:
        cases: The images whose files are there.
        workers: Number of processes; None for one per CPU core.
        coding: What the values of the masks mean; None for images of known class, or where that is not known.

    Returns:
        What was found in each image, and every fault.
    """
    with tempfile.TemporaryDirectory() as folder, show_progress("checking", len(cases)) as advance:
        tasks = unpack(cases, Path(folder))
        task = partial(inspect_image, coding=coding)
        inspections = run_tasks(task, tasks, count_workers(workers, len(tasks)), advance)
    faults = group_faults(cases) + [fault for inspection in inspections for fault in inspection.faults]
    faults += summary_faults(cases, inspections)
    faults += copy_faults(cases, inspections, (case.assignment for case in cases))
    return inspections, faults


def _image_summary(
    cases: Sequence[ImageCase], inspections: Sequence[ImageInspection], layout: ImageLayout, coding: MaskCoding | None
) -> str:
    sizes = " x ".join(f"{n:g}" for n in np.median([found.shape for found in inspections if found.shape], axis=0))
    splits = Counter(case.split for case in cases)
    parts = ", ".join(f"{split} {splits[split]:,}" for split in SPLITS if splits[split])
    numbers = Counter(case.class_name for case in cases)
    shown = ", ".join(f"{name} ({numbers[name]:,})" for name in layout.class_names)
    pixel = ""
    if coding is not None:
        marked = ", ".join(
            f"{name} ({coding.show(value)})" for name, value in zip(coding.classes, coding.label_values, strict=True)
        )
        shown = f"{marked}; images of {shown}" if shown else marked
        known = [found.pixel_mm for found in inspections if found.pixel_mm]
        whole = len(known) == len(cases)
        pixel = (
            f", of {' x '.join(f'{mm:.3g}' for mm in np.median(known, axis=0))} mm" if whole else ", of unknown size"
        )
    return (
        f"{count(len(cases), 'image')}; classes: {shown}{f'; {parts}' if parts else ''}\n"
        f"median size {sizes} pixels (H x W){pixel}; no errors"
    )


def _inspect(
    case: Case, channels: tuple[str, ...], labels: dict[int, str] | None, notes: Mapping[int, str]
) -> Inspection:
    return inspect(case, channels, labels, notes)


def stop_on_errors(faults: Sequence[Fault], cases: int, root: Path) -> None:
    """Print every fault and a verdict, and stop if one is an error.

    Args:
        faults: What was found.
        cases: Number of cases.
        root: Folder or file of the data set; files are shown relative to it.

    Raises:
        SystemExit: With status 1 if a fault is an error.
    """
    if not faults:
        return
    folder = root if root.is_dir() else root.parent
    rows = []
    for fault in sorted(faults, key=lambda fault: fault.severity):  # errors first
        file = Path(fault.file)
        shown = file.relative_to(folder) if file.is_relative_to(folder) else file
        note = "warning: " if fault.severity == "warning" else ""
        rows.append((fault.subject, shown, note + fault.finding, fault.remedy))
    print_table(("case", "file", "finding", "remedy"), rows)
    errors = [fault for fault in faults if fault.severity == "error"]
    counts = f"{count(len(errors), 'error')} and {count(len(faults) - len(errors), 'warning')}"
    subjects = {subject for fault in faults for subject in (fault.subject, *fault.subjects)} - {NO_CASE}
    print(f"{counts} in {len(subjects)} of {count(cases, 'case')}" if subjects else f"{counts}; {count(cases, 'case')}")
    if errors:
        raise SystemExit(1)


def count(number: int, noun: str) -> str:
    """Return such as "1 case" or "2 cases"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _option(labels: Mapping[int, str]) -> str:
    """Return labels as the option --classes takes them."""
    return ",".join(name if value == place else f"{name}={value}" for place, (value, name) in enumerate(labels.items()))


def _summary(inspections: Sequence[Inspection], channels: Sequence[str], labels: Mapping[int, str]) -> str:
    classes = [
        name if len(values) == 1 else f"{name} ({' + '.join(map(str, values))})"
        for name, values in class_values(labels).items()
    ]
    statistics = [found.statistics for found in inspections if found.statistics]
    shape = " x ".join(f"{n:g}" for n in np.median([case.shape for case in statistics], axis=0))
    spacing = " x ".join(f"{mm:.3g}" for mm in np.median([case.spacing for case in statistics], axis=0))
    return (
        f"{count(len(inspections), 'case')}, channels: {', '.join(channels)}; classes: {', '.join(classes)}\n"
        f"median size {shape} voxels, median spacing {spacing} mm (D x H x W); no errors"
    )
