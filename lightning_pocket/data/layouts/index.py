"""Tables of what is known of 2D images: groups, folds, splits, classes and pixel sizes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_pocket.data.folds import Assignment, parse_assignment
from lightning_pocket.errors import PocketError

from .images import ImageCase, picture_stem

#: A table beside the folders of a data set.
INDEX = "index.csv"


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


def with_index(folders: Sequence[Path], cases: Iterable[ImageCase]) -> tuple[list[ImageCase], list[ImageCase]]:
    """Add what ``index.csv`` says, where there is one.

    Args:
        folders: Where it may be: the data set, and the folders of its files.
        cases: The images of the data set.

    Returns:
        The same cases with what the table says; and those of which it has no line, if there is a table.

    Raises:
        PocketError: If there are several tables; if one cannot be read, names no image, or has a wrong cell; if a line
            is about an image that is not there, or that another line is about.
    """
    cases = list(cases)
    tables = [path for path in dict.fromkeys(folder / INDEX for folder in folders) if path.is_file()]
    if not tables:
        return cases, []
    if len(tables) > 1:
        listed = " and ".join(map(str, tables))
        raise PocketError(f"{listed}: several tables of the same images; put all lines into {tables[0]}.")
    entries = _read_index(tables[0], {case.subject for case in cases})
    found = [entries[case.subject].add_to(case) if case.subject in entries else case for case in cases]
    return found, [case for case in cases if case.subject not in entries]


def _read_index(path: Path, known: Collection[str]) -> dict[str, Entry]:
    header, rows = read_rows(path)
    key = next((name for name in ("subject", "file") if name in header), None)
    if key is None:
        found = ", ".join(header) or "nothing"
        raise PocketError(
            f"{path}: columns are {found}; expected subject or file, or rename a table of something else."
        )
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    for number, row in rows:
        subject = row[key] if key == "subject" else picture_stem(Path(row[key].replace("\\", "/")))
        where = f"{path}, line {number}"
        if subject in lines:
            raise PocketError(f"{where}: '{row[key]}' is in line {lines[subject]} already; give each image one line.")
        lines[subject] = number
        entries[subject] = read_entry(row, where)
    _refuse_strangers(path, lines, known)
    return entries


def _refuse_strangers(path: Path, lines: Mapping[str, int], known: Collection[str]) -> None:
    """Refuse a table with lines that are about no image: a name that is written otherwise would lose its group."""
    strange = [name for name in lines if name not in known]
    if strange:
        more = f"and {len(strange) - 1:,} more are no images" if len(strange) > 1 else "is no image"
        expected = f", whose images are called such as '{min(known)}'" if known else ""
        raise PocketError(
            f"{path}, line {lines[strange[0]]}: '{strange[0]}' {more} of the data set{expected}; mend the name or take "
            "out the line."
        )


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
