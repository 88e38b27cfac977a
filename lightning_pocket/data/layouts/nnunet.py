"""The raw data layout of nnU-Net (Isensee et al., Nature Methods 2021), versions 1 and 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_pocket.data.folds import stem
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json

from .base import Case, Layout, image_files, numbered_names, parse_labels


class NNUNet(Layout):
    """``imagesTr/CASE_0000.nii.gz``, one file per channel, ``labelsTr/CASE.nii.gz``, and ``dataset.json``.

    The keys are those of version 2 (``channel_names``, ``labels`` as name to value, ``file_ending``) or of version 1
    (``modality``, ``labels`` as value to name).
    """

    name = "nnunet"
    expects = "dataset.json, imagesTr/CASE_0000.nii.gz and labelsTr/CASE.nii.gz"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        file = root / "dataset.json"
        data: dict[str, Any] = read_json(file)
        channels = data.get("channel_names", data.get("modality"))
        if not isinstance(channels, dict) or not isinstance(data.get("labels"), dict):
            raise PocketError(f"{file}: has {', '.join(data) or 'nothing'}; expected `channel_names` and `labels`.")
        self.channels = numbered_names(channels, f"{file}: channel_names")
        self.labels = parse_labels(data["labels"], f"{file}: labels")
        self.ending = str(data.get("file_ending", ".nii.gz"))

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        file = root / "dataset.json"
        if not file.is_file():
            return False
        data = read_json(file)
        if not isinstance(data, dict):
            return False
        # Version 1 lists pairs like the Decathlon, but its image files carry the number of their channel.
        pairs = data["training"] if isinstance(data.get("training"), list) else []
        names = [Path(pair["image"]).name for pair in pairs if isinstance(pair, dict) and "image" in pair]
        return "channel_names" in data or any(_is_numbered(root / "imagesTr", name) for name in names)

    @override
    def cases(self) -> list[Case]:
        images, labels = self.root / "imagesTr", self.root / "labelsTr"
        # A case may lack its first channel or its images altogether: any file of it counts.
        subjects = {path.name[: -len(self.ending)] for path in image_files(labels, self.ending)}
        for channel in range(len(self.channels)):
            ending = f"_{channel:04d}{self.ending}"
            subjects |= {path.name[: -len(ending)] for path in image_files(images, ending)}
        return [
            Case(
                subject,
                tuple(images / f"{subject}_{channel:04d}{self.ending}" for channel in range(len(self.channels))),
                labels / f"{subject}{self.ending}",
            )
            for subject in sorted(subjects)
        ]


def _is_numbered(folder: Path, name: str) -> bool:
    numbered = f"{stem(name)}_0000{name.removeprefix(stem(name))}"
    return not (folder / name).exists() and (folder / numbered).exists()
