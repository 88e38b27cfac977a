"""Finds in one pass what is wrong with a raw data set.

Image and label must lie on one grid: same shape, and corner voxels at most a tenth of the finest voxel side apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_pocket.data.fingerprint import Statistics, measure
from lightning_pocket.data.images import Volume, read_label, read_volume
from lightning_pocket.data.integrity import FINITE_VALUES, ImageError
from lightning_pocket.data.layouts import Case
from lightning_pocket.data.layouts.base import check_ignored, counted_labels, ignored_value
from lightning_pocket.errors import PocketError

_NO_FILE = Path()  # what a layout gives where the data set names no image


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Args:
        subject: The case.
        file: The file, as the data set names it.
        finding: What is wrong.
        remedy: How to mend it.
        severity: A data set with an error cannot be prepared; a warning is only shown.
    """

    subject: str
    file: str
    finding: str
    remedy: str
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Inspection:
    """What was found in one case.

    Args:
        subject: The case.
        faults: What is wrong with it.
        statistics: Its statistics; None where an error prevents them.
    """

    subject: str
    faults: list[Fault]
    statistics: Statistics | None


def inspect(case: Case, channels: Sequence[str], labels: Mapping[int, str] | None) -> Inspection:
    """Read one case and look for every kind of fault.

    Args:
        case: The case.
        channels: Names of the channels.
        labels: Name of the class of each raw label value; None accepts any value from 0 to 255.

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
        faults += _label_faults(case, label.array, labels)
    if image is not None and label is not None:
        faults += _grid_faults(case, image, label)
    statistics = None
    if image is not None and label is not None and not any(fault.severity == "error" for fault in faults):
        raw = label.array.astype(np.uint8)
        statistics = measure(image.array, raw, image.spacing, case.subject, ignored_value(labels))
    return Inspection(case.subject, faults, statistics)


def _missing(case: Case) -> list[Fault]:
    faults = []
    for path in case.images:
        if not path.exists() or path == _NO_FILE:
            named = path != _NO_FILE
            finding = "the image is missing" if named else "no image is named for a channel"
            faults.append(Fault(case.subject, str(path), finding, "restore the file, or take the case out of the list"))
    if case.label is None:
        faults.append(Fault(case.subject, "-", "no label is named", "name a label file, or take out the case"))
    elif not case.label.exists():
        faults.append(
            Fault(case.subject, str(case.label), "the label is missing", "restore the file, or take out the case")
        )
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


def _label_faults(case: Case, label: np.ndarray, labels: Mapping[int, str] | None) -> list[Fault]:
    def fault(finding: str, remedy: str, severity: Literal["error", "warning"] = "error") -> list[Fault]:
        return [Fault(case.subject, str(case.label), finding, remedy, severity)]

    values = np.unique(label)
    fractions = values[~np.isfinite(values) | (values != np.round(values))]
    if fractions.size:
        remedy = "store whole numbers; resample labels with nearest neighbours"
        return fault(f"label values are not whole numbers ({_listed(fractions)})", remedy)
    if values[0] < 0 or values[-1] > 255:
        outside = values[(values < 0) | (values > 255)]
        return fault(f"label values outside 0 to 255 ({_listed(outside)})", "renumber the labels from 0")
    undeclared = values if labels is None else values[~np.isin(values, list(labels))]
    if labels is not None and undeclared.size:
        declared = ", ".join(map(str, labels))
        remedy = f"declared are {declared}: declare the value with --classes NAME=VALUE or mend the file"
        return fault(f"undeclared label values ({_listed(undeclared)})", remedy)
    counted = values[values != ignored_value(labels)]
    if not counted.size:
        return fault("every voxel is ignored", "label some of them, or take out the case")
    if counted[-1] == 0:
        return fault("the label is empty", "right only if nothing is to be found here", "warning")
    return []


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


def _listed(values: np.ndarray, most: int = 5) -> str:
    return ", ".join(f"{value:g}" for value in values[:most].tolist()) + (", ..." if values.size > most else "")


def name_faults(cases: Sequence[Case]) -> list[Fault]:
    """Return what is wrong with the names of the cases: given twice, or unfit as a folder name."""
    counts = Counter(case.subject for case in cases)
    faults = []
    for subject, count in counts.items():
        file = next(str(case.images[0]) for case in cases if case.subject == subject)
        if count > 1:
            faults.append(Fault(subject, file, f"{count} cases have this name", "give each case its own name"))
        if set(subject) & set('/\\:*?"<>|') or subject.startswith(".") or not subject.isprintable():
            faults.append(Fault(subject, file, "the name cannot name a folder", "use letters, digits, - and _"))
    return faults


def parse_classes(classes: str) -> dict[int, str]:
    """Read class names from one line.

    Args:
        classes: Names separated by commas, for the label values 0, 1, 2 and so on; ``name=4`` sets the value. Voxels
            of a class called "ignore" do not count.

    Returns:
        Name of each raw label value, in the order of the values.

    Raises:
        PocketError: If a name or value is missing, repeated or not a number, or 0 has no name or does not count.
    """
    labels: dict[int, str] = {}
    for position, part in enumerate(classes.split(",")):
        name, _, value = (text.strip() for text in part.partition("="))
        if not name or (value and not value.isdecimal()):
            raise PocketError(f"classes: '{part.strip()}' in '{classes}'; expected NAME or NAME=VALUE.")
        number = int(value) if value else position
        if number in labels or name in labels.values():
            raise PocketError(f"classes: '{part.strip()}' in '{classes}' repeats a name or value; use each once.")
        labels[number] = name
    check_ignored(labels, f"classes: '{classes}'")
    if 0 not in labels or len(counted_labels(labels)) < 2:
        raise PocketError(f"classes: '{classes}'; expected background (value 0) and at least one more class.")
    return dict(sorted(labels.items()))


def found_labels(inspections: Sequence[Inspection]) -> dict[int, str]:
    """Return names for the raw label values that occur, where the data set declares none."""
    values = {value for found in inspections if found.statistics for value in found.statistics.label_voxels}
    return {0: "background"} | {value: f"label_{value}" for value in sorted(values - {0})}
