"""The layout of the Neurofeedback Skull-stripped repository (NFBS; Puccio et al., GigaScience 2016)."""

from __future__ import annotations

import re
from pathlib import Path

from typing_extensions import override

from lightning_pocket.data.folds import IMAGE_SUFFIXES

from .base import Case, Layout, folders_of, image_files

_FOLDER = r"A\d+"
_FILE = re.compile(r"(sub-A\d+_ses-\w+_T1w)(_brainmask|_brain)?(\.nii(?:\.gz)?)")


class NFBS(Layout):
    """``A00028185/sub-A00028185_ses-NFB3_T1w.nii.gz`` with ``..._T1w_brainmask.nii.gz``, one folder per subject.

    The skull-stripped ``..._T1w_brain.nii.gz`` beside them is not read.
    """

    name = "nfbs"
    expects = "a folder A00028185 per subject with sub-A00028185_ses-NFB3_T1w.nii.gz and ..._T1w_brainmask.nii.gz"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.channels = ["T1w"]
        self.labels = {0: "background", 1: "brain"}

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return any(_FILE.fullmatch(path.name) for folder in folders_of(root, _FOLDER) for path in _files(folder))

    @override
    def cases(self) -> list[Case]:
        return [case for folder in folders_of(self.root, _FOLDER) for case in _cases(folder)]

    @override
    def unlisted(self) -> list[Path]:
        files = [path for folder in folders_of(self.root, _FOLDER) for path in _files(folder)]
        return [path for path in files if not _FILE.fullmatch(path.name)]


def _cases(folder: Path) -> list[Case]:
    """Return the scans of one subject; a folder without any gives one whose files are missing."""
    found: dict[str, dict[str, Path]] = {}
    for path in _files(folder):
        named = _FILE.fullmatch(path.name)
        if named:
            found.setdefault(named[1], {})[named[2] or ""] = path
    scans = found or {f"sub-{folder.name}_ses-NFB3_T1w": {}}
    return [
        Case(
            scan,
            (files.get("") or folder / f"{scan}.nii.gz",),
            files.get("_brainmask") or folder / f"{scan}_brainmask.nii.gz",
            group=folder.name,
        )
        for scan, files in scans.items()
    ]


def _files(folder: Path) -> list[Path]:
    return image_files(folder, IMAGE_SUFFIXES)
