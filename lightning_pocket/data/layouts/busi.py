"""The release of BUSI, breast ultrasound images with lesions (Al-Dhabyani et al., Data in Brief 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typing_extensions import override

from .image_masks import split_suffix
from .images import ImageCase, is_picture, picture_stem
from .masks import MaskLayout

_CLASSES = ("benign", "malignant", "normal")


class BUSI(MaskLayout):
    """Folders ``benign``, ``malignant`` and ``normal`` with ``benign (1).png`` and ``benign (1)_mask.png``.

    Images with several lesions have ``_mask_1.png`` and so on too; their masks are merged. The masks of normal images
    are empty, and may be missing. The release has many near-duplicates and does not name its patients: an ``index.csv``
    beside the folders, with the columns ``file`` and ``group``, keeps those together that belong together.
    """

    name = "busi"
    expects = "the folders benign, malignant and normal with 'benign (1).png' and 'benign (1)_mask.png'"
    foreground = "lesion"
    empty_classes = frozenset({"normal"})

    def __init__(self, root: Path) -> None:
        folder = _folder(root) or root
        super().__init__(root, (case for name in _CLASSES for case in _read(folder / name, name)), [folder])

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return _folder(root) is not None


def _folder(root: Path) -> Path | None:
    """Return the folder of the classes: the given one, or the only such folder inside it."""
    if not root.is_dir():
        return None
    for folder in (root, *sorted(path for path in root.iterdir() if path.is_dir())):
        if all(any((folder / name).glob(f"{name} (*)_mask*.png")) for name in ("benign", "malignant")):
            return folder
    return None


def _read(folder: Path, class_name: str) -> Iterator[ImageCase]:
    files = sorted(file for file in folder.iterdir() if is_picture(file)) if folder.is_dir() else []
    masks: dict[str, list[Path]] = {}
    for file in files:
        owner = split_suffix(picture_stem(file))
        if owner is not None:
            masks.setdefault(owner, []).append(file)
    for file in files:
        name = picture_stem(file)
        if split_suffix(name) is None:
            yield ImageCase(name, (file,), None, class_name=class_name, masks=tuple(masks.get(name, ())))
