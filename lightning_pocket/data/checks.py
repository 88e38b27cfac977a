"""Finds in one pass what is wrong with a raw data set.

Image and label must lie on one grid: same shape, and corner voxels at most a tenth of the finest voxel side apart.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_pocket.data.fingerprint import Statistics, measure
from lightning_pocket.data.folds import ONE_PLACE, parted_groups
from lightning_pocket.data.images import Volume, read_label, read_volume
from lightning_pocket.data.integrity import FINITE_VALUES, ImageError
from lightning_pocket.data.label_checks import check_label, mistaken_file
from lightning_pocket.data.layouts import Case, Layout
from lightning_pocket.data.layouts.base import check_ignored, counted_labels, uncounted_values
from lightning_pocket.errors import PocketError

NO_CASE = "-"  # the subject of a fault that is no case's
UNFIT_NAME = "the name cannot name a folder"
_NO_FILE = Path()  # what a layout gives where the data set names no image
_MISSING = ("the image is missing", "the label is missing")
_MOST_UNLISTED = 5  # files that belong to no case and get a line each


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Args:
        subject: The case.
        file: The file, as the data set names it.
        finding: What is wrong.
        remedy: How to mend it.
        severity: A data set with an error cannot be prepared; a warning is only shown.
        subjects: The cases that it is about, where it is about several.
    """

    subject: str
    file: str
    finding: str
    remedy: str
    severity: Literal["error", "warning"] = "error"
    subjects: Sequence[str] = ()


@dataclass(frozen=True)
class Inspection:
    """What was found in one case.

    Args:
        subject: The case.
        faults: What is wrong with it.
        statistics: Its statistics; None where an error prevents them.
        digest: Hash of the voxels of its image, for finding copies; None where it cannot be read.
    """

    subject: str
    faults: list[Fault]
    statistics: Statistics | None
    digest: str | None = None


def inspect(
    case: Case, channels: Sequence[str], labels: Mapping[int, str] | None, notes: Mapping[int, str] | None = None
) -> Inspection:
    """Read one case and look for every kind of fault.

    Args:
        case: The case.
        channels: Names of the channels.
        labels: Name of the class of each raw label value, several values of one name where a class is merged; None
            accepts any value from 0 to 255.
        notes: What label values that are not declared usually are, and how to declare them.

    Returns:
        Faults and statistics.
    """
    faults = _missing(case)
    image = label = None
    if not any(Path(fault.file) in case.images for fault in faults):
        image = _attempt(case, faults, lambda: read_volume(case.images, len(channels)))
    label_file = case.label
    if label_file is not None and label_file.exists():
        label = _attempt(case, faults, lambda: read_label(label_file))
    if image is not None:
        faults += _image_faults(case, image.array, channels)
    if label is not None:
        found = check_label(label.array, labels, notes or {})
        if found is not None and found.severity == "error" and image is not None:
            found = mistaken_file(label.array, image.array, case.images, labels) or found
        faults += [Fault(case.subject, str(case.label), found.text, found.remedy, found.severity)] if found else []
    if image is not None and label is not None:
        faults += _grid_faults(case, image, label)
    statistics = None
    if image is not None and label is not None and not any(fault.severity == "error" for fault in faults):
        raw = label.array.astype(np.uint8)
        statistics = measure(image.array, raw, image.spacing, case.subject, uncounted_values(labels))
    return Inspection(case.subject, faults, statistics, _digest(image))


def _digest(image: Volume | None) -> str | None:
    if image is None:
        return None
    content = hashlib.blake2b(str(image.array.shape).encode(), digest_size=16)
    for channel in image.array:  # no second copy of a large image
        content.update(np.ascontiguousarray(channel).data)
    return content.hexdigest()


def _missing(case: Case) -> list[Fault]:
    faults = []
    for path in case.images:
        if not path.exists() or path == _NO_FILE:
            named = path != _NO_FILE
            finding = _MISSING[0] if named else "no image is named for a channel"
            faults.append(Fault(case.subject, str(path), finding, "restore the file, or take the case out of the list"))
    if case.label is None:
        faults.append(Fault(case.subject, "-", "no label is named", "name a label file, or take out the case"))
    elif not case.label.exists():
        faults.append(Fault(case.subject, str(case.label), _MISSING[1], "restore the file, or take out the case"))
    return faults


def _attempt(case: Case, faults: list[Fault], read: Callable[[], Volume]) -> Volume | None:
    try:
        return read()
    except ImageError as error:
        faults.append(Fault(case.subject, str(error.path), error.finding, error.remedy))
        return None


def _image_faults(case: Case, image: np.ndarray, channels: Sequence[str]) -> list[Fault]:
    faults = []
    for index, (name, voxels) in enumerate(zip(channels, image, strict=True)):
        file = str(case.images[index if len(case.images) > 1 else 0])
        bad = voxels.size - int(np.isfinite(voxels).sum())
        if bad:
            faults.append(Fault(case.subject, file, f"NaN or infinite voxels: {bad:,}", FINITE_VALUES))
        elif voxels.min() == voxels.max():
            finding = f"channel {name} is {voxels.flat[0]:g} everywhere"
            faults.append(Fault(case.subject, file, finding, "check the export of this image", "warning"))
    return faults


def _grid_faults(case: Case, image: Volume, label: Volume) -> list[Fault]:
    file = str(case.label)
    if image.grid.shape != label.grid.shape:
        sizes = [" x ".join(map(str, volume.grid.shape)) for volume in (label, image)]
        finding = f"label shape {sizes[0]} (D x H x W), image {sizes[1]}"
        return [Fault(case.subject, file, finding, "resample the label to the grid of the image")]
    if not image.grid.matches(label.grid):
        finding = f"label and image affines are up to {image.grid.distance(label.grid):.2f} mm apart"
        remedy = "copy the image's header to the label if they overlay, otherwise resample the label"
        return [Fault(case.subject, file, finding, remedy)]
    return []


def unlisted_faults(unlisted: Sequence[Path], faults: Sequence[Fault], roles: Sequence[str] = ()) -> list[Fault]:
    """Add what is to be said of files that belong to no case.

    Args:
        unlisted: Such files.
        faults: What else is wrong.
        roles: Words by which the names of the files tell images and labels apart.

    Returns:
        The faults. Where one file is missing from a folder and one in it belongs to no case, they are one fault: the
        name is wrong, unless the name says that it is something else. Other files of no case are warnings, a single
        one where there are many.
    """
    strays = Counter(path.parent for path in unlisted)
    missing: dict[Path, list[Path]] = {}
    for fault in faults:
        if fault.finding in _MISSING:
            missing.setdefault(Path(fault.file).parent, []).append(Path(fault.file))
    renamed = {
        path.parent: path
        for path in unlisted
        if strays[path.parent] == len(missing.get(path.parent, ())) == 1
        and not _is_other(path, missing[path.parent][0], roles)
    }
    found = [
        _misnamed(fault, renamed[folder])
        if fault.finding in _MISSING and (folder := Path(fault.file).parent) in renamed
        else fault
        for fault in faults
    ]
    left = [path for path in unlisted if path.parent not in renamed]
    if len(left) > _MOST_UNLISTED:
        finding = f"this and {len(left) - 1} more image files belong to no case"
        remedy = "rename them as the others are, or take them out"
        return [*found, Fault(NO_CASE, str(left[0]), finding, remedy, "warning")]
    remedy = "rename it as the others are, or take it out"
    return found + [Fault(NO_CASE, str(path), "belongs to no case", remedy, "warning") for path in left]


def _is_other(stray: Path, missing: Path, roles: Sequence[str]) -> bool:
    """Tell whether a file is called something else than the missing one: an image is no label."""
    said, wanted = (
        {role for role in roles if re.search(rf"(?<![a-z0-9]){role}(?![a-z])", path.name.lower())}
        for path in (stray, missing)
    )
    return bool(said) and not said & wanted


def _misnamed(fault: Fault, stray: Path) -> Fault:
    finding = f"{fault.finding}, and {stray.name} beside it belongs to no case"
    return replace(fault, finding=finding, remedy=f"rename {stray.name} to {Path(fault.file).name} if it is the same")


def name_faults(cases: Sequence[Case]) -> list[Fault]:
    """Return what is wrong with the names of the cases: given twice, or unfit as a folder name."""
    counts = Counter(case.subject for case in cases)
    faults = []
    for subject, count in counts.items():
        file = next(str(case.images[0]) for case in cases if case.subject == subject)
        if count > 1:
            faults.append(Fault(subject, file, f"{count} cases have this name", "give each case its own name"))
        if set(subject) & set('/\\:*?"<>|') or subject.startswith(".") or not subject.isprintable():
            faults.append(Fault(subject, file, UNFIT_NAME, "use letters, digits, - and _"))
    return faults


def line_faults(layout: Layout) -> list[Fault]:
    """Return what is wrong with the lines of the tables of a data set."""
    return [Fault(NO_CASE, fault.where, fault.finding, fault.remedy) for fault in layout.line_faults]


def group_faults(cases: Sequence[Case]) -> list[Fault]:
    """Return the groups (patients) that the data set puts into several folds or splits."""
    first = {case.group: case for case in reversed(cases)}
    parted = parted_groups({case.subject: case.assignment for case in cases})
    return [
        Fault(first[group].subject, str(first[group].images[0]), f"group '{group}' is in {where}", ONE_PLACE)
        for group, where in parted.items()
    ]


def parse_classes(classes: str) -> dict[int, str]:
    """Read the class names of volumes from one line, see :func:`parse_label_values`.

    Returns:
        Name of each raw label value, in the order of the values; merged ones have the same name.

    Raises:
        PocketError: As that function, and if the first class has not the value 0, which is the background of volumes.
    """
    labels = parse_label_values(classes)
    first = next(iter(counted_labels(labels).values()))
    if labels[0] != first:
        raise PocketError(
            f"classes: '{classes}' names '{first}' first, but the background of volumes is what has the value 0, here "
            f"'{labels[0]}'; name that first if it is right, or renumber the labels."
        )
    return dict(sorted(labels.items()))


def parse_label_values(classes: str) -> dict[int, str]:
    """Read class names from one line.

    Args:
        classes: Names separated by commas, for the label values 0, 1, 2 and so on; ``name=4`` sets the value, and
            ``name=1+4`` merges values into one class. Voxels of a class called "ignore" do not count.

    Returns:
        Name of each raw label value, in the order given; merged ones have the same name.

    Raises:
        PocketError: If a name or value is missing, repeated or not a number, 0 has no name or does not count, or
            another class comes before one called "background".
    """
    labels: dict[int, str] = {}
    for position, part in enumerate(classes.split(",")):
        name, _, given = (text.strip() for text in part.partition("="))
        values = [value.strip() for value in given.split("+")] if given else [str(position)]
        if not name or not all(value.isdecimal() for value in values):
            raise PocketError(
                f"classes: '{part.strip()}' in '{classes}'; expected NAME, NAME=VALUE or NAME=VALUE+VALUE."
            )
        numbers = [int(value) for value in values]
        if name in labels.values() or labels.keys() & set(numbers) or len(set(numbers)) < len(numbers):
            raise PocketError(f"classes: '{part.strip()}' in '{classes}' repeats a name or value; use each once.")
        labels |= dict.fromkeys(numbers, name)
    check_ignored(labels, f"classes: '{classes}'")
    if 0 not in labels or len(set(counted_labels(labels).values())) < 2:
        raise PocketError(f"classes: '{classes}'; expected background (value 0) and at least one more class.")
    refuse_late_background(counted_labels(labels).values(), classes)
    return labels


def refuse_late_background(names: Iterable[str], classes: str) -> None:
    """Refuse classes of which one is called "background" and is not the first, which would be the background.

    Args:
        names: Names in the order given.
        classes: The whole line, for the error.

    Raises:
        PocketError: If that is so.
    """
    late = next((name for name in list(dict.fromkeys(names))[1:] if name.lower() == "background"), None)
    if late is not None:
        raise PocketError(f"classes: '{classes}'; the first class is the background: put '{late}' first.")


def found_labels(inspections: Sequence[Inspection]) -> dict[int, str]:
    """Return names for the raw label values that occur, where the data set declares none."""
    values = {value for found in inspections if found.statistics for value in found.statistics.label_voxels}
    return {0: "background"} | {value: f"label_{value}" for value in sorted(values - {0})}
