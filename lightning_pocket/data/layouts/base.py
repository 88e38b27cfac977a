"""What the layout of a raw data set must tell."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning_pocket.data.folds import Assignment
from lightning_pocket.errors import PocketError

from .table_faults import LineFault

IGNORE = "ignore"  # the class of voxels that do not count


@dataclass(frozen=True)
class Case:
    """One subject of a raw data set. Its files may be missing: ``checks.inspect`` reports that.

    Args:
        subject: Name of the case, unique in the data set.
        images: One file (or DICOM folder) per channel, or one 4D file with all channels; an empty path where the
            data set names none.
        label: Label file; None where the data set names none.
        fold: Cross-validation fold that holds the case out, where the data set fixes it.
        split: "train", "val" or "test", where the data set fixes it.
        group: Cases of the same group (a patient with several scans) never part.
    """

    subject: str
    images: tuple[Path, ...]
    label: Path | None
    fold: int | None = None
    split: str | None = None
    group: str | None = None

    @property
    def assignment(self) -> Assignment:
        """Where the data set puts the case."""
        return Assignment(self.fold, self.split, self.group)


class Layout(ABC):
    """A raw data set on disk.

    Args:
        root: Folder or file of the data set.

    Attributes:
        name: Name by which the layout is chosen.
        expects: What the layout looks like, in one phrase, for errors.
        kind: Whether the cases are volumes whose voxels are labelled, or 2D images of known class.
        channels: Names of the image channels.
        labels: Name of the class of each raw label value, 0 is background; None where the data set declares none. A
            class called "ignore" marks voxels that do not count: see :func:`ignored_value`.
        merge: The same with several values in one class, where that is the usual task; empty where it is not.
        regions: Raw label values of named parts that are scored together, and may overlap.
        roles: Words by which the names of the files tell images and labels apart.
        notes: What label values that are not declared usually are, and how to declare them.
        line_faults: What is wrong with lines of the tables that the data set is described by.
    """

    name: ClassVar[str]
    expects: ClassVar[str]
    kind: ClassVar[Literal["volumes", "images"]] = "volumes"
    channels: list[str]
    labels: dict[int, str] | None
    merge: ClassVar[Mapping[int, str]] = {}
    regions: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    roles: ClassVar[tuple[str, ...]] = ()
    notes: ClassVar[Mapping[int, str]] = {}
    line_faults: Sequence[LineFault] = ()

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """Tell whether ``root`` looks like this layout."""

    @abstractmethod
    def cases(self) -> list[Case]:
        """Return every case with a label, or that should have one.

        Raises:
            PocketError: If the list of cases itself cannot be read.
        """

    @property
    def classes(self) -> dict[int, str] | None:
        """Name of the class of each raw label value unless the user says otherwise; None where nothing is declared."""
        return dict(self.merge) or self.labels

    def unlisted(self) -> list[Path]:
        """Return the image files that belong to no case, where the layout can tell."""
        return []


def folders_of(root: Path, pattern: str) -> list[Path]:
    """Return the folders whose whole name fits a regular expression, in ``root`` or else one level below, sorted."""

    def fitting(parent: Path) -> list[Path]:
        return [path for path in sorted(parent.iterdir()) if path.is_dir() and re.fullmatch(pattern, path.name)]

    if not root.is_dir():
        return []
    below = (path for path in sorted(root.iterdir()) if path.is_dir())
    return fitting(root) or [path for folder in below for path in fitting(folder)]


def is_hidden(path: Path, root: Path) -> bool:
    """Tell whether a file or folder below ``root`` is hidden, or lies in a hidden folder."""
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def image_files(folder: Path, ending: str | tuple[str, ...]) -> list[Path]:
    """Return the files of a folder that end so, sorted; none where there is no folder. Hidden files are skipped."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name.lower().endswith(ending) and not f.name.startswith("."))


def numbered_names(table: dict[str, Any], where: str) -> list[str]:
    """Return the values of ``{"0": "T1", "1": "T2"}`` in the order of the numbers.

    Raises:
        PocketError: If a key is not a number.
    """
    try:
        return [str(table[key]) for key in sorted(table, key=int)]
    except (TypeError, ValueError) as error:
        raise PocketError(f'{where} is {table}; expected numbers and names such as {{"0": "T1"}}.') from error


def parse_labels(table: dict[str, Any], where: str) -> dict[int, str]:
    """Read label names in either direction: ``{"0": "background"}`` or ``{"background": 0}``.

    Args:
        table: The part of ``dataset.json``.
        where: Names file and key in errors.

    Returns:
        Name of each raw value, in the order of the values.

    Raises:
        PocketError: If a label is a region (a list of values) or not an integer; if 0 is missing or does not count.
    """
    labels: dict[int, str] = {}
    for key, value in table.items():
        name, raw = (value, key) if isinstance(value, str) else (key, value)
        if isinstance(raw, list):
            raise PocketError(
                f"{where}: '{name}' is a region {raw} of overlapping labels, which is not supported; "
                "give each label one value, or merge the labels in the files."
            )
        try:
            labels[int(raw)] = str(name)
        except (TypeError, ValueError) as error:
            raise PocketError(f"{where}: '{name}' has the value {raw}; expected a whole number.") from error
    if 0 not in labels:
        raise PocketError(f'{where}: 0 is not declared; add "background" with the value 0.')
    check_ignored(labels, where)
    return dict(sorted(labels.items()))


def ignored_value(labels: Mapping[int, str] | None) -> int | None:
    """Return the raw value of the voxels that do not count: the class called "ignore", in any case of letters.

    The name is the convention of nnU-Net (Isensee et al., Nature Methods 2021).

    Args:
        labels: Name of the class of each raw label value.
    """
    return next((value for value, name in (labels or {}).items() if name.lower() == IGNORE), None)


def counted_labels(labels: Mapping[int, str]) -> dict[int, str]:
    """Return the labels without the one that marks voxels that do not count."""
    return {value: name for value, name in labels.items() if name.lower() != IGNORE}


def class_values(labels: Mapping[int, str]) -> dict[str, tuple[int, ...]]:
    """Return the raw label values of each class, classes in the order of their lowest values.

    Args:
        labels: Name of the class of each raw label value; values of the same name are one class.
    """
    values: dict[str, tuple[int, ...]] = {}
    for value, name in sorted(labels.items()):
        values[name] = (*values.get(name, ()), value)
    return values


def uncounted_values(labels: Mapping[int, str] | None) -> set[int]:
    """Return the raw label values that are no foreground: those of the background and of "ignore"."""
    labels = labels or {}
    background = labels.get(0)
    return {0} | {value for value, name in labels.items() if name == background or name.lower() == IGNORE}


def region_classes(regions: Mapping[str, Sequence[int]], labels: Mapping[int, str]) -> dict[str, list[int]]:
    """Return the class indices of each region that is made of whole classes.

    Args:
        regions: Raw label values of each region.
        labels: Name of the class of each raw label value.

    Returns:
        Class indices by the name of the region, without regions that cut a class, that have the name of a class, or
        that a single foreground class could only repeat.
    """
    classes = class_values(counted_labels(labels))
    if len(classes) < 3:
        return {}
    found = {}
    for name, values in regions.items():
        indices = [index for index, own in enumerate(classes.values()) if set(own) <= set(values)]
        covered = {value for index in indices for value in list(classes.values())[index]}
        if covered == set(values) and name not in classes:
            found[name] = indices
    return found


def check_ignored(labels: Mapping[int, str], where: str) -> None:
    """Refuse labels of which too little counts.

    Args:
        labels: Name of the class of each raw label value.
        where: Names file and key in errors.

    Raises:
        PocketError: If several values, or the background, are called "ignore".
    """
    values = sorted(labels.keys() - counted_labels(labels).keys())
    if len(values) > 1 or 0 in values:
        raise PocketError(
            f"{where}: 'ignore' has the values {', '.join(map(str, values))}; give one value above 0 to the voxels "
            "that do not count."
        )
