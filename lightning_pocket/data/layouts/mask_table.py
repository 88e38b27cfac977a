"""2D images with masks listed in a CSV file."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from .images import ImageCase
from .index import COLUMNS, read_entry, read_rows
from .masks import MaskLayout
from .table_faults import LineFault, refuse_misspelt, unread

_NEEDED = ("subject", "image", "mask")
_KNOWN = (*_NEEDED, *COLUMNS)


class MaskTable(MaskLayout):
    """A CSV file with the columns subject, image and mask, and optionally group, fold, split, class and pixel_mm.

    Paths are relative to the folder of the CSV file. A cell may name several masks of an image, separated by ``;``, and
    be blank where there is none. Other columns are ignored.
    """

    name = "mask_table"
    expects = "a CSV file with the columns subject, image and mask"

    def __init__(self, root: Path) -> None:
        header, rows = read_rows(root)
        refuse_misspelt(root, header, _KNOWN)
        faults: list[LineFault] = []
        found = [_case(root, number, row, faults) for number, row in rows]
        super().__init__(root, [case for case in found if case is not None])
        self.unread, self.line_faults = unread(header, _KNOWN), [*faults, *self.line_faults]

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() != ".csv":
            return False
        header, _ = read_rows(root)
        return set(_NEEDED) <= set(header) and "label" not in header


def _case(root: Path, number: int, row: dict[str, str], faults: list[LineFault]) -> ImageCase | None:
    entry = read_entry(row, root, number, faults)
    blank = [name for name in ("subject", "image") if not row[name]]
    if blank:
        faults.append(LineFault(root, number, f"the {blank[0]} is blank", "every image needs a subject and an image"))
        return None
    masks = tuple(root.parent / name.strip() for name in row["mask"].split(";") if name.strip())
    case = ImageCase(row["subject"], (root.parent / row["image"],), None, masks=masks)
    return entry.add_to(case)
