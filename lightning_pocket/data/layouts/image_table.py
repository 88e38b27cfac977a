"""2D images listed in a CSV file."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout
from .index import read_rows
from .table_faults import LineFault, read_assignment, refuse_misspelt, unread

_NEEDED = ("subject", "image", "class")
_KNOWN = (*_NEEDED, "fold", "split", "group")


class ImageTable(ImageLayout):
    """A CSV file with the columns subject, image and class, and optionally fold, split and group.

    Paths are relative to the folder of the CSV file. Other columns are ignored. Classes are in alphabetical order.
    """

    name = "image_table"
    expects = "a CSV file with the columns subject, image and class"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        header, rows = read_rows(root)
        refuse_misspelt(root, header, _KNOWN)
        self.unread = unread(header, _KNOWN)
        self.line_faults: list[LineFault] = []
        found = [self._case(number, row) for number, row in rows]
        self._cases = [case for case in found if case is not None]
        self.class_names = sorted({case.class_name for case in self._cases})
        if len(self.class_names) < 2 and not self.line_faults:
            names = ", ".join(self.class_names) or "no image"
            raise PocketError(f"{root}: has one class or none ({names}); expected images of two classes or more.")

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() != ".csv":
            return False
        header, _ = read_rows(root)
        return set(_NEEDED) <= set(header) and "label" not in header

    @override
    def image_cases(self) -> list[ImageCase]:
        return list(self._cases)

    def _case(self, number: int, row: dict[str, str]) -> ImageCase | None:
        assignment = read_assignment(row, self.root, number, self.line_faults)
        blank = [name for name in _NEEDED if not row[name]]
        if blank:
            remedy = f"every image needs {', '.join(_NEEDED)}"
            self.line_faults.append(LineFault(self.root, number, f"the {blank[0]} is blank", remedy))
            return None
        return ImageCase(
            subject=row["subject"],
            images=(self.root.parent / row["image"],),
            label=None,
            fold=assignment.fold,
            split=assignment.split,
            group=assignment.group,
            class_name=row["class"],
        )
