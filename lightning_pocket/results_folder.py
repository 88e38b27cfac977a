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

#: What may differ between two commands that fill one folder.
_FREE = ("checkpoint", "window_batch", "speed")


class ResultsFolder:
    """Label maps of one checkpoint and one choice of settings.

    ::

        infer.json                  checkpoint and settings
        records/CASE.json           source files and results of a case, written before them and completed after them
        CASE.nii.gz                 label map of a case
        probabilities/CASE/         one file per class, where they were asked for

    Each case has a record of its own, so that several commands can fill one folder.

    Args:
        path: The folder; need not exist yet.
        identity: Checkpoint and settings.
        fresh: Do again what is there. Results of another checkpoint or other settings are deleted.

    Raises:
        PocketError: If the folder cannot be written, or holds results of another checkpoint or other settings.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], fresh: bool = False) -> None:
        self.path = path
        self._fresh = fresh
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PocketError(f"--output {path}: cannot be made ({error.strerror}); name another folder.") from error
        if not os.access(path, os.W_OK):
            raise PocketError(f"--output {path}: cannot be written; name another folder or change its permissions.")
        self._identity = dict(identity)
        self._different = self._differences()
        self._notes: dict[str, Any] = {}
        if self._different and not fresh:
            names = ", ".join(key.removesuffix("_sha256").replace("_", " ") for key in self._different)
            raise PocketError(
                f"--output {path}: holds results with another {names}; name another folder, or replace them all with "
                "--fresh."
            )

    def claim(self, images: Iterable[Path]) -> None:
        """Begin to write, when nothing else can be wrong any more: results that are to be replaced are deleted.

        Args:
            images: Files and folders that will be segmented.

        Raises:
            PocketError: If an image lies in the folder, or is the folder.
        """
        for image in images:
            if self.path.resolve() in (image.resolve(), image.resolve().parent):
                raise PocketError(f"--output {self.path}: holds the image {image.name}; name a folder of its own.")
        for folder in (self.path, *(self.path / "probabilities").glob("*/")):
            remove_partials(folder)
        if self._different:
            for file in self._records():
                for name in read_json(file)["results"]:
                    (self.path / name).unlink(missing_ok=True)
                file.unlink()
        self._notes = {"speed": self.earlier("speed")}
        self._write()

    def earlier(self, key: str) -> Any:
        """Return what an earlier command recorded, or null."""
        file = self.path / "infer.json"
        return read_json(file).get(key) if file.is_file() else None

    def note(self, key: str, value: Any) -> None:
        """Add to the record of the folder something that does not change the results."""
        self._notes[key] = value
        self._write()

    def _write(self) -> None:
        write_json(self.path / "infer.json", self._identity | self._notes)

    def is_done(self, subject: str, images: Sequence[Path]) -> bool:
        """Tell whether every result of a case is there, made from the same files."""
        record = self._record(subject)
        if self._fresh or not record.get("finished") or record["sources"] != _identify(images):
            return False
        return all((self.path / name).is_file() for name in record["results"])

    def begin(self, subject: str, images: Sequence[Path], results: Sequence[Path]) -> None:
        """Note that the results of a case are about to be written.

        Raises:
            PocketError: If a file is there that is no result of this folder.
        """
        names = [str(result.relative_to(self.path)) for result in results]
        known = self._record(subject).get("results", [])
        for name in names:
            if (self.path / name).exists() and name not in known:
                raise PocketError(
                    f"{self.path / name}: already exists and was not written by this command; move it, or name another "
                    "--output."
                )
        write_json(self._file(subject), {"sources": _identify(images), "results": names, "finished": False})

    def finish(self, subject: str) -> None:
        """Note that the results of a case are written."""
        write_json(self._file(subject), self._record(subject) | {"finished": True})

    def _file(self, subject: str) -> Path:
        return self.path / "records" / f"{subject}.json"

    def _record(self, subject: str) -> dict[str, Any]:
        file = self._file(subject)
        return dict(read_json(file)) if file.is_file() else {}

    def _records(self) -> list[Path]:
        return sorted((self.path / "records").glob("*.json"))

    def _differences(self) -> list[str]:
        """Return what is different where there are results already."""
        file = self.path / "infer.json"
        results = (self.path / name for record in self._records() for name in read_json(record)["results"])
        if not file.is_file() or not any(result.exists() for result in results):
            return []
        before = read_json(file)
        keys = [key for key in {**before, **self._identity} if key not in _FREE]
        return [key for key in keys if _comparable(before.get(key)) != _comparable(self._identity.get(key))]


def _comparable(value: Any) -> Any:
    return {k: v for k, v in value.items() if k not in _FREE} if isinstance(value, dict) else value


def _identify(images: Sequence[Path]) -> list[dict[str, Any]]:
    """Return path, size and date of every file of a case."""
    return [identify(file) for image in images for file in source_files(image)]
