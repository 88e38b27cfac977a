"""What the layout of a raw data set must tell."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from lightning_pocket.errors import PocketError


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


class Layout(ABC):
    """A raw data set on disk.

    Args:
        root: Folder or file of the data set.

    Attributes:
        name: Name by which the layout is chosen.
        expects: What the layout looks like, in one phrase, for errors.
        channels: Names of the image channels.
        labels: Name of the class of each raw label value, 0 is background; None where the data set declares none.
    """

    name: ClassVar[str]
    expects: ClassVar[str]
    channels: list[str]
    labels: dict[int, str] | None

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


def image_files(folder: Path, ending: str | tuple[str, ...]) -> list[Path]:
    """Return the files of a folder that end so, sorted; none where there is no folder. Hidden files are skipped."""
    if not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.name.endswith(ending) and not f.name.startswith("."))


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
        PocketError: If a label is a region (a list of values), an ignore label, or not an integer; if 0 is missing.
    """
    labels: dict[int, str] = {}
    for key, value in table.items():
        name, raw = (value, key) if isinstance(value, str) else (key, value)
        if isinstance(raw, list):
            raise PocketError(
                f"{where}: '{name}' is a region {raw} of overlapping labels, which is not supported; "
                "give each label one value, or merge the labels in the files."
            )
        if name == "ignore":
            raise PocketError(f"{where}: an 'ignore' label is not supported; give those voxels a class of their own.")
        try:
            labels[int(raw)] = str(name)
        except (TypeError, ValueError) as error:
            raise PocketError(f"{where}: '{name}' has the value {raw}; expected a whole number.") from error
    if 0 not in labels:
        raise PocketError(f'{where}: 0 is not declared; add "background" with the value 0.')
    return dict(sorted(labels.items()))
