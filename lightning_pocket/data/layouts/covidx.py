"""The layout of COVIDx, chest X-rays with and without COVID-19 (Wang et al., Scientific Reports 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from lightning_pocket.errors import PocketError

from .images import ImageCase, ImageLayout, is_image_file

_FIELDS = 4  # patient, file, class, source


class Covidx(ImageLayout):
    """Folders ``train/`` and ``test/``, and for each a text list with one image per line.

    A line is "patient file class source", such as ``COVID 1 COVID(1).png positive sirm``. The patient's identifier may
    hold spaces, so fields are counted from the right. The official split is kept, and images of one patient never
    part. An image is called after its file, suffix included: some differ in nothing else. Lists for validation
    (``val_COVIDx*.txt`` and ``val/``), which later releases have, are read too.
    """

    name = "covidx"
    expects = "train_COVIDx*.txt and test_COVIDx*.txt (also in labels/), and the folders train/ and test/"
    patterns: ClassVar[dict[str, str]] = {split: f"{split}_COVIDx*.txt" for split in ("train", "val", "test")}

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.class_names = ["negative", "positive"]
        folder = next(folder for folder in (root, root / "labels") if _has_lists(folder))
        self.lists = {split: _only(folder, pattern) for split, pattern in self.patterns.items()}
        self._cases = [
            case for split, file in self.lists.items() if file is not None for case in self._read(file, split)
        ]

    @classmethod
    @override
    def matches(cls, root: Path) -> bool:
        return _has_lists(root) or _has_lists(root / "labels")

    @override
    def image_cases(self) -> list[ImageCase]:
        return list(self._cases)

    @override
    def unlisted(self) -> list[Path]:
        listed = {case.file for case in self._cases}
        folders = [self.root / split for split in self.patterns if (self.root / split).is_dir()]
        files = [file for folder in folders for file in sorted(folder.iterdir()) if is_image_file(file)]
        return [file for file in files if file not in listed]

    def _read(self, file: Path, split: str) -> Iterator[ImageCase]:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise PocketError(f"{file}: the list cannot be read ({error}).") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            fields = line.rsplit(maxsplit=_FIELDS - 1)
            if len(fields) < _FIELDS:
                raise PocketError(
                    f"{file}, line {number}: has {len(fields)} fields ('{line.strip()}'), expected {_FIELDS}: patient, "
                    "file, class and source. Mend the line or take it out."
                )
            patient, name, class_name, source = fields
            if class_name not in self.class_names:
                raise PocketError(
                    f"{file}, line {number}: the class is '{class_name}', expected {' or '.join(self.class_names)}. "
                    "It is the last field but one of 'patient file class source'."
                )
            image = self.root / split / name
            group = f"{patient.strip()} ({source})"  # sources number their patients alike
            yield ImageCase(name, (image,), None, split=split, group=group, class_name=class_name)


def _has_lists(folder: Path) -> bool:
    return all(any(folder.glob(Covidx.patterns[split])) for split in ("train", "test"))


def _only(folder: Path, pattern: str) -> Path | None:
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise PocketError(f"{folder}: has several lists {pattern} ({names}); leave the one to use.")
    return files[0] if files else None
