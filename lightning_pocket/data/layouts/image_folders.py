"""2D images in one folder per class."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from .base import is_hidden
from .images import ImageCase, ImageLayout, is_image_file

#: Folders above the classes, and the split they stand for.
_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
#: Names of folders that hold parts of one image rather than classes of images.
_PARTS = {"image", "images", "mask", "masks", "label", "labels", "annotations", "imagestr", "labelstr", "imagests"}


class ImageFolders(ImageLayout):
    """``CLASS/*.png`` or ``train/CLASS/*.png`` (also val, test), the classes in alphabetical order.

    An image is called after its path: ``train/cat/1.png`` is ``train_cat_1.png``. Folders below a class belong to it.
    """

    name = "image_folders"
    expects = "a folder of images for each class, perhaps inside train/, val/ and test/"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._cases = [
            ImageCase("_".join(file.relative_to(root).parts), (file,), None, split=split, class_name=folder.name)
            for split, parent in _parents(root)
            for folder in _folders(parent)
            for file in sorted(folder.rglob("*"))
            if is_image_file(file) and not is_hidden(file, root)
        ]
        self.class_names = sorted({case.class_name for case in self._cases})

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        if not root.is_dir():
            return False
        names = {
            folder.name
            for _, parent in _parents(root)
            for folder in _folders(parent)
            if any(is_image_file(file) for file in folder.iterdir())
        }
        return len(names) > 1 and not _PARTS & {name.lower() for name in names}

    @override
    def image_cases(self) -> list[ImageCase]:
        return list(self._cases)

    @override
    def unlisted(self) -> list[Path]:
        listed = {case.file for case in self._cases}
        files = (file for file in sorted(self.root.rglob("*")) if file not in listed and is_image_file(file))
        return [file for file in files if not is_hidden(file, self.root)]


def _parents(root: Path) -> list[tuple[str | None, Path]]:
    """Return the folders that hold the folders of the classes, each with its split."""
    found = [(_SPLITS[folder.name.lower()], folder) for folder in _folders(root) if folder.name.lower() in _SPLITS]
    return [*found] or [(None, root)]


def _folders(parent: Path) -> list[Path]:
    return sorted(folder for folder in parent.iterdir() if folder.is_dir() and not folder.name.startswith("."))
