"""What the layouts of 2D images with masks share."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from lightning_pocket.data.folds import Assignment, parse_assignment
from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout, is_picture, picture_stem

#: A table beside the folders of a data set: groups, folds, splits, classes and pixel sizes of its images.
INDEX = "index.csv"


class MaskLayout(ImageLayout):
    """A data set of 2D images with masks.

    Attributes:
        foreground: Name of what a mask of two values marks, unless the user says otherwise.
        outlined: Whether masks are the outlines of ellipses, to be filled, rather than areas.
        empty_classes: Classes of images in which there is nothing to mark: theirs need no mask.
    """

    masked: ClassVar[bool] = True
    foreground: ClassVar[str] = "foreground"
    outlined: ClassVar[bool] = False
    empty_classes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, root: Path, cases: Iterable[ImageCase]) -> None:
        super().__init__(root)
        self._cases = list(cases)
        self.class_names = sorted({case.class_name for case in self._cases if case.class_name})

    @override
    def image_cases(self) -> list[ImageCase]:
        return list(self._cases)

    @override
    def unlisted(self) -> list[Path]:
        listed = {file for case in self._cases for file in case.files}
        folders = dict.fromkeys(file.parent for file in listed)
        files = (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()))
        return [file for file in files if file not in listed and is_picture(file)]


@dataclass(frozen=True)
class Entry:
    """What a table says of an image.

    Args:
        assignment: Fold, split and group.
        class_name: Its class, for folds that have their share of each.
        pixel_mm: Height and width of a pixel in mm.
    """

    assignment: Assignment
    class_name: str = ""
    pixel_mm: tuple[float, float] | None = None

    def add_to(self, case: ImageCase) -> ImageCase:
        """Return the case with what the table says of it; what it does not say stays."""
        place = self.assignment
        return replace(
            case,
            fold=case.fold if place.fold is None else place.fold,
            split=place.split or case.split,
            group=place.group or case.group,
            class_name=self.class_name or case.class_name,
            pixel_mm=self.pixel_mm or case.pixel_mm,
        )


def with_index(root: Path, cases: Iterable[ImageCase]) -> list[ImageCase]:
    """Add what ``index.csv`` beside the folders says, where there is one.

    Args:
        root: Folder of the data set.
        cases: The images that its folders hold.

    Returns:
        The same cases, those that the table names with what it says.

    Raises:
        PocketError: If the table cannot be read, or a cell is wrong.
    """
    cases = list(cases)
    path = root / INDEX
    if not path.is_file():
        return cases
    header, rows = read_rows(path)
    key = next((name for name in ("subject", "file") if name in header), None)
    if key is None:  # a table of something else
        return cases
    entries = {}
    for number, row in rows:
        name = Path(row[key].replace("\\", "/"))
        entries[picture_stem(name) if key == "file" else row[key]] = read_entry(row, f"{path}, line {number}")
    return [entries[case.subject].add_to(case) if case.subject in entries else case for case in cases]


def read_entry(row: Mapping[str, str], where: str) -> Entry:
    """Read the cells ``fold``, ``split``, ``group``, ``class`` and ``pixel_mm`` of a row, each of which may be absent.

    Args:
        row: Cells by column.
        where: Names file and line in errors.

    Raises:
        PocketError: If a cell is wrong.
    """
    place = parse_assignment(row.get("fold", ""), row.get("split", ""), where)
    place = replace(place, group=row.get("group") or None)
    return Entry(place, row.get("class", ""), parse_pixel(row.get("pixel_mm", ""), where))


def parse_pixel(text: str, where: str) -> tuple[float, float] | None:
    """Read the size of a pixel.

    Args:
        text: One number in mm for square pixels, ``HEIGHTxWIDTH`` for others, or blank.
        where: Names file and line in errors.

    Returns:
        Height and width in mm; None where blank.

    Raises:
        PocketError: If it is anything else.
    """
    if not text.strip():
        return None
    try:
        sizes = [float(part) for part in text.split("x")]
    except ValueError:
        sizes = []
    if len(sizes) not in (1, 2) or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise PocketError(f"{where}: pixel_mm is '{text}', expected a size in mm such as 0.2, or 0.2x0.3 (H x W).")
    return sizes[0], sizes[-1]


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header of a CSV file and its rows with their line numbers; cells are stripped, blank rows left out.

    Raises:
        PocketError: If the file cannot be read, names a column twice, or has a row of another length.
    """
    try:
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        header = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PocketError(f"{path}: cannot be read as CSV ({error}).") from error
    if len(set(header)) != len(header):
        raise PocketError(f"{path}: columns are {', '.join(header)}; give each column a name of its own.")
    rows = []
    for number, cells in lines:
        if any(cells):
            if len(cells) != len(header):
                raise PocketError(f"{path}, line {number}: has {len(cells)} cells, expected {len(header)}.")
            rows.append((number, dict(zip(header, cells, strict=True))))
    return header, rows
