"""2D images listed in a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from typing_extensions import override

from lightning_pocket.data.folds import parse_assignment
from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout

_NEEDED = ("subject", "image", "class")


class ImageTable(ImageLayout):
    """A CSV file with the columns subject, image and class, and optionally fold, split and group.

    Paths are relative to the folder of the CSV file. Other columns are ignored. Classes are in alphabetical order.
    """

    name = "image_table"
    expects = "a CSV file with the columns subject, image and class"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        header, rows = _read(root)
        if len(set(header)) != len(header):
            raise PocketError(f"{root}: columns are {', '.join(header)}; give each column a name of its own.")
        self._cases = [self._case(number, row) for number, row in rows]
        self.class_names = sorted({case.class_name for case in self._cases})
        if len(self.class_names) < 2:
            found = ", ".join(self.class_names) or "no image"
            raise PocketError(f"{root}: has one class or none ({found}); expected images of two classes or more.")

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() != ".csv":
            return False
        header, _ = _read(root)
        return set(_NEEDED) <= set(header) and "label" not in header

    @override
    def image_cases(self) -> list[ImageCase]:
        return list(self._cases)

    def _case(self, number: int, row: dict[str, str]) -> ImageCase:
        where = f"{self.root}, line {number}"
        for name in _NEEDED:
            if not row[name]:
                raise PocketError(f"{where}: the {name} is blank; every image needs {', '.join(_NEEDED)}.")
        assignment = parse_assignment(row.get("fold", ""), row.get("split", ""), where)
        return ImageCase(
            subject=row["subject"],
            images=(self.root.parent / row["image"],),
            label=None,
            fold=assignment.fold,
            split=assignment.split,
            group=row.get("group") or None,
            class_name=row["class"],
        )


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the header and the rows with their line numbers; cells are stripped, blank rows left out."""
    try:
        reader = csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
        header = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PocketError(f"{path}: cannot be read as CSV ({error}).") from error
    rows = []
    for number, cells in lines:
        if any(cells):
            if len(cells) != len(header):
                raise PocketError(f"{path}, line {number}: has {len(cells)} cells, expected {len(header)}.")
            rows.append((number, dict(zip(header, cells, strict=True))))
    return header, rows
