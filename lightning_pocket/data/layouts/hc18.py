"""The release of HC18, fetal heads in ultrasound images (van den Heuvel et al., PLoS ONE 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .images import ImageCase, is_picture, picture_stem
from .index import parse_pixel, read_rows
from .masks import MaskLayout

_TABLE = "training_set_pixel_size_and_HC.csv"
_ANNOTATION = "_Annotation"
_FILE, _PIXEL = "filename", "pixel size(mm)"


class HC18(MaskLayout):
    """``000_HC.png`` and ``000_HC_Annotation.png`` in ``training_set/``, and ``training_set_pixel_size_and_HC.csv``.

    An annotation is the outline of an ellipse, which is filled. ``010_HC.png`` and ``010_2HC.png`` are of one
    examination, which never parts. The pixels of an image are square; the table has their side.
    """

    name = "hc18"
    expects = f"training_set/ with 000_HC.png and 000_HC_Annotation.png, and {_TABLE} beside it"
    foreground = "head"
    outlined = True

    def __init__(self, root: Path) -> None:
        folder = _folder(root) or root
        sizes = _pixel_sizes(next((path for path in (root / _TABLE, folder / _TABLE) if path.is_file()), None))
        super().__init__(root, _read(folder, sizes), [folder])

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return _folder(root) is not None


def _folder(root: Path) -> Path | None:
    if not root.is_dir():
        return None
    return next((path for path in (root / "training_set", root) if any(path.glob(f"*HC{_ANNOTATION}.*"))), None)


def _read(folder: Path, sizes: dict[str, tuple[float, float]]) -> Iterator[ImageCase]:
    files = {picture_stem(file): file for file in sorted(folder.iterdir()) if is_picture(file)}
    for name, file in files.items():
        if not name.endswith(_ANNOTATION):
            masks = tuple(files[key] for key in (f"{name}{_ANNOTATION}",) if key in files)
            group = name.partition("_")[0]
            yield ImageCase(name, (file,), None, group=group, masks=masks, pixel_mm=sizes.get(name))


def _pixel_sizes(path: Path | None) -> dict[str, tuple[float, float]]:
    """Return height and width of the pixels of each image in mm."""
    if path is None:
        return {}
    header, rows = read_rows(path)
    if not {_FILE, _PIXEL} <= set(header):
        raise PocketError(f"{path}: columns are {', '.join(header) or 'nothing'}; expected {_FILE} and {_PIXEL}.")
    sizes = {}
    for number, row in rows:
        size = parse_pixel(row[_PIXEL], f"{path}, line {number}")
        if size is not None:
            sizes[picture_stem(Path(row[_FILE]))] = size
    return sizes
