"""What the layouts of 2D images with masks share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from .images import ImageCase, ImageLayout, is_picture
from .index import with_index


class MaskLayout(ImageLayout):
    """A data set of 2D images with masks.

    Args:
        root: Folder or file of the data set.
        cases: Its images.
        folders: Where ``index.csv`` may be beside ``root``.

    Attributes:
        foreground: Name of what a mask of two values marks, unless the user says otherwise.
        labels: Name of the class of each value of the masks where the layout knows it, in the order of the classes;
            values of the class "ignore" do not count. None finds it out from the masks.
        coloured: Whether these values are colours, as ``0xRRGGBB``.
        outlined: Whether masks are the outlines of ellipses, to be filled, rather than areas.
        empty_classes: Classes of images in which there is nothing to mark: theirs need no mask.
        unindexed: Images of which ``index.csv`` says nothing, where there is one.
    """

    masked: ClassVar[bool] = True
    foreground: ClassVar[str] = "foreground"
    coloured: bool = False
    outlined: ClassVar[bool] = False
    empty_classes: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, root: Path, cases: Iterable[ImageCase], folders: Sequence[Path] = ()) -> None:
        super().__init__(root)
        indexed = with_index([root, *folders], cases)
        self._cases, self.unindexed = indexed.cases, indexed.unindexed
        self.table, self.unread, self.line_faults = indexed.table, indexed.unread, indexed.faults
        self.class_names = sorted({case.class_name for case in self._cases if case.class_name})

    @override
    def image_cases(self) -> list[ImageCase]:
        return list(self._cases)

    @override
    def unlisted(self) -> list[Path]:
        listed = {file for case in self._cases for file in case.files}
        folders = dict.fromkeys(file.parent for file in listed)
        files = (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir()))
        return [file for file in files if file not in listed and is_picture(file)]
