"""What is wrong with the tables of a data set: single lines, and columns that are nearly those that mean something."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_pocket.data.folds import Assignment, parse_assignment
from lightning_pocket.errors import PocketError

#: What a column that keeps cases together is called elsewhere, without case, spaces and the like.
_GROUPS = {
    *("patient", "patients", "patientid", "patientids", "patientname", "patientno", "patientnumber", "pid"),
    *("person", "personid", "participant", "participantid", "subjectid", "grp", "groupid", "groupname"),
}
#: Columns that decide who trains and who tests: nobody sees that one of them was not read.
_DECIDING = ("group", "fold", "split")
_ALIKE = 0.8  # of difflib's ratio; one letter of five added, left out or exchanged with its neighbour


@dataclass(frozen=True)
class LineFault:
    """One thing that is wrong with a line of a table.

    Args:
        table: The file.
        line: Number of the line, from 1.
        finding: What is wrong, as a clause.
        remedy: What mends it, as a clause.
    """

    table: Path
    line: int
    finding: str
    remedy: str = "mend the line"

    @property
    def where(self) -> str:
        """Names file and line."""
        return f"{self.table}, line {self.line}"

    @classmethod
    def of(cls, error: PocketError, table: Path, line: int) -> LineFault:
        """Return what an error about a line says."""
        return cls(table, line, str(error).removeprefix(f"{table}, line {line}: ").rstrip("."))

    def to_error(self) -> PocketError:
        """Return the same as an error."""
        return PocketError(f"{self.where}: {self.finding}; {self.remedy}.")


def read_assignment(row: Mapping[str, str], table: Path, line: int, faults: list[LineFault]) -> Assignment:
    """Read the cells ``fold``, ``split`` and ``group`` of a row, each of which may be absent.

    Args:
        row: Cells by column.
        table: The file.
        line: Number of the line.
        faults: What is wrong is added here; a wrong cell counts as blank.
    """
    places = []
    for cells in ((row.get("fold", ""), ""), ("", row.get("split", ""))):
        try:
            places.append(parse_assignment(*cells, f"{table}, line {line}"))
        except PocketError as error:
            faults.append(LineFault.of(error, table, line))
            places.append(Assignment())
    return Assignment(places[0].fold, places[1].split, row.get("group") or None)


def refuse_misspelt(table: Path, header: Sequence[str], known: Collection[str]) -> None:
    """Refuse a column that means one of the known ones by all appearance, and would not be read.

    Args:
        table: The file.
        header: Its columns.
        known: Columns that mean something.

    Raises:
        PocketError: If a column differs from a known one in case or punctuation alone; or if there is no column
            ``group`` (``fold``, ``split``) but one of nearly the same letters, or one called after patients.
    """
    for name in header:
        meant = None if name in known else _meant(name, known, header)
        if meant is not None:
            wrong = "is there too; remove one of them" if meant in header else f"is; rename it to {meant}, or remove it"
            raise PocketError(f"{table}: the column '{name}' is not read, but '{meant}' {wrong}.")


def unread(header: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the columns of a table that mean nothing, without blank names."""
    return [name for name in header if name and name not in known]


def _meant(name: str, known: Collection[str], header: Collection[str]) -> str | None:
    plain = _plain(name)
    same = next((other for other in known if _plain(other) == plain), None)
    if same is not None:
        return same
    absent = [other for other in _DECIDING if other in known and other not in header]
    if "group" in absent and plain in _GROUPS:
        return "group"
    alike = difflib.get_close_matches(plain, absent, 1, _ALIKE)
    return alike[0] if alike and alike[0][0] == plain[0] else None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())
