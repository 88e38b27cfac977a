"""The layout of the Brain Tumor Segmentation challenge of 2020 (BraTS; Menze et al., IEEE TMI 2015)."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from lightning_pocket.data.folds import IMAGE_SUFFIXES

from .base import Case, Layout, folders_of, image_files

_FOLDER = r"BraTS20_Training_\d+"
_MODALITIES = ("flair", "t1", "t1ce", "t2")
_SUFFIXES = (".nii.gz", ".nii")


class BraTS2020(Layout):
    """``BraTS20_Training_001/BraTS20_Training_001_flair.nii`` and so on with ``t1``, ``t1ce``, ``t2`` and ``seg``.

    PocketNet segments the whole tumour (Celaya et al., IEEE TMI 2023, section II-B), and so does this layout unless
    the user names the classes. Where the three are kept apart, the regions of the challenge are scored too: enhancing
    tumour (ET), tumour core (TC) and whole tumour (WT).
    """

    name = "brats2020"
    expects = "a folder BraTS20_Training_001 per case with BraTS20_Training_001_flair.nii, _t1, _t1ce, _t2 and _seg"
    merge = {0: "background", 1: "whole_tumour", 2: "whole_tumour", 4: "whole_tumour"}  # noqa: RUF012 (never changed)
    regions = {"ET": (4,), "TC": (1, 4), "WT": (1, 2, 4)}  # noqa: RUF012 (never changed)
    roles = (*_MODALITIES, "seg")
    notes = {  # noqa: RUF012 (never changed)
        3: "3 is the enhancing tumour of later releases, which --classes background,whole_tumour=1+2+3+4 or "
        "background,necrosis,edema,enhancing=3+4 takes as well"
    }

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.channels = list(_MODALITIES)
        self.labels = {0: "background", 1: "necrosis", 2: "edema", 4: "enhancing"}

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return bool(folders_of(root, _FOLDER))

    @override
    def cases(self) -> list[Case]:
        return [
            Case(folder.name, tuple(_file(folder, modality) for modality in _MODALITIES), _file(folder, "seg"))
            for folder in folders_of(self.root, _FOLDER)
        ]

    @override
    def unlisted(self) -> list[Path]:
        return [
            path
            for folder in folders_of(self.root, _FOLDER)
            for path in image_files(folder, IMAGE_SUFFIXES)
            if path not in {_file(folder, part) for part in (*_MODALITIES, "seg")}
        ]


def _file(folder: Path, part: str) -> Path:
    """Return the file of one modality or of the label; where there is none, the name that it should have."""
    names = [folder / f"{folder.name}_{part}{suffix}" for suffix in _SUFFIXES]
    found = next((path for path in names if path.exists()), None)
    if found is None:  # it is expected to be compressed as its neighbours are
        return names[0] if image_files(folder, _SUFFIXES[0]) else names[1]
    return found
