"""The layout of the Liver Tumor Segmentation Benchmark (LiTS; Bilic et al., Medical Image Analysis 2023)."""

from __future__ import annotations

import re
from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from typing_extensions import override

from lightning_pocket.data.folds import IMAGE_SUFFIXES

from .base import Case, Layout, image_files, is_hidden

_FILE = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?")
_TEST = "test-volume-"  # the images of the challenge, whose labels were never published


class LiTS(Layout):
    """``volume-N.nii`` and ``segmentation-N.nii`` in one folder, or spread over the folders below it.

    PocketNet merges the tumour into the liver (Celaya et al., IEEE TMI 2023, section II-B), and so does this layout
    unless the user names the classes.
    """

    name = "lits"
    expects = "volume-0.nii, segmentation-0.nii, volume-1.nii and so on (or .nii.gz), here or in folders below"
    merge = {0: "background", 1: "liver", 2: "liver"}  # noqa: RUF012 (never changed)
    roles = ("volume", "segmentation")

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.channels = ["CT"]
        self.labels = {0: "background", 1: "liver", 2: "tumour"}

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        # A folder that holds several data sets, one of them this one, is not one itself.
        near = (path for pattern in ("*", "*/*") for path in root.glob(pattern)) if root.is_dir() else ()
        return any(_FILE.fullmatch(path.name) for path in near)

    @override
    def cases(self) -> list[Case]:
        found: dict[str, dict[int, list[Path]]] = {"volume": defaultdict(list), "segmentation": defaultdict(list)}
        for path in _files(self.root):
            named = _FILE.fullmatch(path.name)
            if named:
                found[named[1]][int(named[2])].append(path)
        images, labels = found["volume"], found["segmentation"]
        return [
            Case(
                f"volume-{number}",
                (image or label.with_name(label.name.replace("segmentation", "volume")),),
                label or image.with_name(image.name.replace("volume", "segmentation")),
            )
            for number in sorted({*images, *labels})
            # A number given twice makes two cases of one name, which is reported.
            for image, label in zip_longest(images[number], labels[number])
        ]

    @override
    def unlisted(self) -> list[Path]:
        return [path for path in _files(self.root) if not _FILE.fullmatch(path.name) and _TEST not in path.name]


def _files(root: Path) -> list[Path]:
    folders = [root, *(path for path in sorted(root.rglob("*/")) if not is_hidden(path, root))]
    return [path for folder in folders for path in image_files(folder, IMAGE_SUFFIXES)]
