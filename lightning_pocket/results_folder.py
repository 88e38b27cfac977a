"""The folder of predicted label maps: which are done, and with what."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_pocket.data.case_files import identify
from lightning_pocket.data.images import source_files
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, remove_partials, write_json

RECORD = "infer.json"
#: What may differ between two commands that fill one folder.
_FREE = ("checkpoint", "window_batch")


class ResultsFolder:
    """Label maps of one checkpoint and one choice of settings.

    ::

        infer.json             checkpoint, settings, and the source files of each case
        CASE.nii.gz            label map of a case
        probabilities/         one file per case and class, where they were asked for

    Args:
        path: The folder; need not exist yet.
        identity: Checkpoint and settings.
        fresh: Do again what is there.

    Raises:
        PocketError: If the folder cannot be written, or holds results of another checkpoint or other settings.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool = False) -> None:
        self.path = path
        self._file = path / RECORD
        self._cases: dict[str, Any] = {}
        self._redone = fresh
        self._identity = dict(identity)
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PocketError(f"--output {path}: cannot be made ({error.strerror}); name another folder.") from error
        if not os.access(path, os.W_OK):
            raise PocketError(f"--output {path}: cannot be written; name another folder or change its permissions.")
        remove_partials(path)
        if self._file.is_file():
            self._cases = self._read(read_json(self._file))

    def refuse_inputs(self, images: Iterable[Path]) -> None:
        """Refuse to write beside the images themselves.

        Raises:
            PocketError: If an image lies in the folder.
        """
        for image in images:
            if image.resolve().parent == self.path.resolve():
                raise PocketError(f"--output {self.path}: holds the image {image.name}; name a folder of its own.")

    def is_done(self, subject: str, images: Sequence[Path], label: Path) -> bool:
        """Tell whether the label map of a case is there, made from the same files."""
        entry = self._cases.get(subject)
        return not self._redone and label.is_file() and entry is not None and entry["sources"] == _identify(images)

    def check_free(self, subject: str, label: Path) -> None:
        """Refuse to overwrite a file that is not a result of this folder.

        Raises:
            PocketError: If there is such a file.
        """
        if label.exists() and subject not in self._cases and not self._redone:
            raise PocketError(f"{label}: already exists and was not written by this command; move it, or use --fresh.")

    def record(self, subject: str, images: Sequence[Path], label: Path) -> None:
        """Note that the label map of a case is done."""
        self._cases[subject] = {"label": label.name, "sources": _identify(images)}
        write_json(self._file, self._identity | {"cases": self._cases})

    def _read(self, before: dict[str, Any]) -> dict[str, Any]:
        cases: dict[str, Any] = before.pop("cases", {})
        different = [
            key
            for key in {**before, **self._identity}
            if key not in _FREE and _comparable(before.get(key)) != _comparable(self._identity.get(key))
        ]
        if different and not self._redone:
            raise PocketError(
                f"--output {self.path}: holds results with another {', '.join(different)}; name another folder, or do "
                "them again with --fresh."
            )
        return {} if different else cases


def _comparable(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in _FREE} if isinstance(value, dict) else value


def _identify(images: Sequence[Path]) -> list[dict[str, Any]]:
    """Return path, size and date of every file of a case."""
    return [identify(file) for image in images for file in source_files(image)]
