"""A data set listed in a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .base import Case, Layout
from .table_faults import LineFault, read_assignment, refuse_misspelt

RESERVED = ("subject", "label", "fold", "split", "group")


class Table(Layout):
    """A CSV file with a header: subject, one or more image columns, label, and optionally fold, split and group.

    Every column that is not reserved is an image column, and its name is the channel. Paths are relative to the
    folder of the CSV file; an image may be a folder with one DICOM series. A blank label is missing.
    """

    name = "table"
    expects = "a CSV file with the columns subject, label and one or more images"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        header, rows = _read(root)
        refuse_misspelt(root, header, RESERVED)
        self.channels = [name for name in header if name not in RESERVED]
        self.labels = None
        missing = [name for name in ("subject", "label") if name not in header]
        if missing or not self.channels or len(set(header)) != len(header) or "" in header:
            raise PocketError(
                f"{root}: columns are {', '.join(header) or 'nothing'}; expected subject, label and one or more "
                "image columns, each with a name of its own."
            )
        self.line_faults: list[LineFault] = []
        found = [self._case(number, row) for number, row in rows]
        self._cases = [case for case in found if case is not None]

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return root.is_file() and root.suffix.lower() == ".csv"

    @override
    def cases(self) -> list[Case]:
        return list(self._cases)

    def _case(self, number: int, row: dict[str, str]) -> Case | None:
        assignment = read_assignment(row, self.root, number, self.line_faults)
        if not row["subject"]:
            self.line_faults.append(LineFault(self.root, number, "the subject is blank", "give each case a name"))
            return None
        folder = self.root.parent
        return Case(
            subject=row["subject"],
            images=tuple(folder / row[name] if row[name] else Path() for name in self.channels),
            label=folder / row["label"] if row["label"] else None,
            fold=assignment.fold,
            split=assignment.split,
            group=assignment.group,
        )


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and the rows with their line numbers; cells are stripped, short rows filled with blanks."""
    try:
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PocketError(f"{path}: cannot be read as CSV ({error}).") from error
    header = [name.strip() for name in lines[0]] if lines else []
    rows = []
    for number, cells in enumerate(lines[1:], start=2):
        stripped = [cell.strip() for cell in cells]
        if len(stripped) > len(header):
            raise PocketError(f"{path}, line {number}: has {len(stripped)} cells, expected {len(header)}.")
        if any(stripped):
            rows.append((number, dict.fromkeys(header, "") | dict(zip(header, stripped, strict=False))))
    return header, rows
