"""2D images listed in a CSV file."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from lightning_pocket.data.folds import parse_assignment
from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout
from .index import read_rows

_NEEDED = ("subject", "image", "class")


class ImageTable(ImageLayout):
    """A CSV file with the columns subject, image and class, and optionally fold, split and group.

    Paths are relative to the folder of the CSV file. Other columns are ignored. Classes are in alphabetical order.
    """

    name = "image_table"
    expects = "a CSV file with the columns subject, image and class"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        _, rows = read_rows(root)
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
        header, _ = read_rows(root)
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
