"""2D images with masks listed in a CSV file."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .images import ImageCase
from .index import read_entry, read_rows
from .masks import MaskLayout

_NEEDED = ("subject", "image", "mask")


class MaskTable(MaskLayout):
    """A CSV file with the columns subject, image and mask, and optionally group, fold, split, class and pixel_mm.

    Paths are relative to the folder of the CSV file. A cell may name several masks of an image, separated by ``;``, and
    be blank where there is none. Other columns are ignored.
    """

    name = "mask_table"
    expects = "a CSV file with the columns subject, image and mask"

    def __init__(self, root: Path) -> None:
        _, rows = read_rows(root)
        super().__init__(root, (_case(root, number, row) for number, row in rows))

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        if not root.is_file() or root.suffix.lower() != ".csv":
            return False
        header, _ = read_rows(root)
        return set(_NEEDED) <= set(header) and "label" not in header


def _case(root: Path, number: int, row: dict[str, str]) -> ImageCase:
    where = f"{root}, line {number}"
    for name in ("subject", "image"):
        if not row[name]:
            raise PocketError(f"{where}: the {name} is blank; every image needs a subject and an image.")
    masks = tuple(root.parent / name.strip() for name in row["mask"].split(";") if name.strip())
    case = ImageCase(row["subject"], (root.parent / row["image"],), None, masks=masks)
    return read_entry(row, where).add_to(case)
