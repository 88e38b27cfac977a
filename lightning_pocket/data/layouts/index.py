"""Tables of what is known of 2D images: groups, folds, splits, classes and pixel sizes."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lightning_pocket.data.folds import Assignment
from lightning_pocket.errors import PocketError

from .images import ImageCase, picture_stem
from .table_faults import LineFault, read_assignment, refuse_misspelt, unread

#: A table beside the folders of a data set.
INDEX = "index.csv"
#: What a table may say of an image.
COLUMNS = ("group", "fold", "split", "class", "pixel_mm")
_KEYS = ("subject", "file")


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


@dataclass(frozen=True)
class Indexed:
    """Images with what a table says of them.

    Args:
        cases: All images.
        table: The table, if there is one.
        unindexed: Those of which it has no line.
        faults: What is wrong with its lines.
        unread: Its columns that mean nothing.
    """

    cases: list[ImageCase]
    table: Path | None = None
    unindexed: list[ImageCase] = field(default_factory=list)
    faults: list[LineFault] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def with_index(folders: Sequence[Path], cases: Iterable[ImageCase]) -> Indexed:
    """Add what ``index.csv`` says, where there is one.

    Args:
        folders: Where it may be: the data set, and the folders of its files.
        cases: The images of the data set.

    Returns:
        The images; of a line that is wrong, about an image that is not there or that another line is about, a fault.

    Raises:
        PocketError: If there are several tables, or one that cannot be read, names no image or has a misspelt column.
    """
    cases = list(cases)
    tables = [path for path in dict.fromkeys(folder / INDEX for folder in folders) if path.is_file()]
    if not tables:
        return Indexed(cases)
    if len(tables) > 1:
        listed = " and ".join(map(str, tables))
        raise PocketError(f"{listed}: several tables of the same images; put all lines into {tables[0]}.")
    header, entries, faults = _read_index(tables[0], {case.subject for case in cases})
    found = [entries[case.subject].add_to(case) if case.subject in entries else case for case in cases]
    unindexed = [case for case in cases if case.subject not in entries]
    return Indexed(found, tables[0], unindexed, faults, unread(header, (*_KEYS, *COLUMNS)))


def _read_index(path: Path, known: Collection[str]) -> tuple[list[str], dict[str, Entry], list[LineFault]]:
    """Return the columns, what is said of each image, and what is wrong."""
    header, rows = read_rows(path)
    refuse_misspelt(path, header, (*_KEYS, *COLUMNS))
    key = next((name for name in _KEYS if name in header), None)
    if key is None:
        found = ", ".join(header) or "nothing"
        raise PocketError(
            f"{path}: columns are {found}; expected subject or file, or rename a table of something else."
        )
    entries: dict[str, Entry] = {}
    lines: dict[str, int] = {}
    faults: list[LineFault] = []
    for number, row in rows:
        subject = row[key] if key == "subject" else picture_stem(Path(row[key].replace("\\", "/")))
        entry = read_entry(row, path, number, faults)
        if subject in lines:
            finding = f"'{row[key]}' is in line {lines[subject]} already"
            faults.append(LineFault(path, number, finding, "give each image one line"))
            continue
        lines[subject], entries[subject] = number, entry
    return header, entries, _strangers(path, lines, known) + faults


def _strangers(path: Path, lines: Mapping[str, int], known: Collection[str]) -> list[LineFault]:
    """Return that lines are about no image, if so: a name that is written otherwise would lose its group."""
    strange = [name for name in lines if name not in known]
    if not strange:
        return []
    more = f"and {len(strange) - 1:,} more are no images" if len(strange) > 1 else "is no image"
    expected = f", whose images are called such as '{min(known)}'" if known else ""
    finding = f"'{strange[0]}' {more} of the data set{expected}"
    return [LineFault(path, lines[strange[0]], finding, "mend the name or take out the line")]


def read_entry(row: Mapping[str, str], table: Path, line: int, faults: list[LineFault]) -> Entry:
    """Read the cells ``fold``, ``split``, ``group``, ``class`` and ``pixel_mm`` of a row, each of which may be absent.

    Args:
        row: Cells by column.
        table: The file.
        line: Number of the line.
        faults: What is wrong is added here; a wrong cell counts as blank.
    """
    place = read_assignment(row, table, line, faults)
    pixel = None
    try:
        pixel = parse_pixel(row.get("pixel_mm", ""), f"{table}, line {line}")
    except PocketError as error:
        faults.append(LineFault.of(error, table, line))
    return Entry(place, row.get("class", ""), pixel)


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
