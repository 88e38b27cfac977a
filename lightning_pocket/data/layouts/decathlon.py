"""The layout of the Medical Segmentation Decathlon (Antonelli et al., Nature Communications 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from lightning_pocket.data.folds import IMAGE_SUFFIXES, stem
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json

from .base import Case, Layout, image_files, numbered_names, parse_labels


class Decathlon(Layout):
    """``dataset.json`` with a list ``training`` of image and label pairs; several modalities share one 4D file.

    Without ``dataset.json``, images and labels of the same name in ``imagesTr`` and ``labelsTr`` are pairs, with one
    channel and undeclared labels.
    """

    name = "decathlon"
    expects = "dataset.json with a list `training`, or imagesTr/ and labelsTr/ with files of the same name"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.file = root / "dataset.json"
        self.declaration: dict[str, Any] = read_json(self.file) if self.file.is_file() else {}
        modality = self.declaration.get("modality", {"0": "image"})
        self.channels = numbered_names(modality, f"{self.file}: modality")
        labels = self.declaration.get("labels")
        self.labels = parse_labels(labels, f"{self.file}: labels") if labels else None

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        file = root / "dataset.json"
        if file.is_file():
            data = read_json(file)
            return isinstance(data, dict) and isinstance(data.get("training"), list)
        labels = {path.name for path in image_files(root / "labelsTr", IMAGE_SUFFIXES)}
        return any(path.name in labels for path in image_files(root / "imagesTr", IMAGE_SUFFIXES))

    @override
    def cases(self) -> list[Case]:
        if not self.declaration:
            return self._pairs_of_files()
        cases = []
        for number, entry in enumerate(self.declaration.get("training", [])):
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                raise PocketError(
                    f"{self.file}: training[{number}] is {entry!r}; expected an object with `image` and `label`."
                )
            label = entry.get("label")
            subject = stem(entry["image"])
            cases.append(Case(subject, (self.root / entry["image"],), self.root / label if label else None))
        return cases

    def _pairs_of_files(self) -> list[Case]:
        names = {
            path.name for folder in ("imagesTr", "labelsTr") for path in image_files(self.root / folder, IMAGE_SUFFIXES)
        }
        return [
            Case(stem(name), (self.root / "imagesTr" / name,), self.root / "labelsTr" / name) for name in sorted(names)
        ]
