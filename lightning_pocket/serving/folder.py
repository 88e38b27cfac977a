"""The one folder that is read: what lies in it, and nothing that leads out of it."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json

#: Subfolders of a run that its pages do not read.
_NOT_READ = {"checkpoints", "predictions", "tensorboard", "wandb"}


class ServedFolder:
    """A folder of results, and the names under which what lies in it is asked for.

    Args:
        path: The folder.

    Raises:
        PocketError: If it is none.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise PocketError(f"{path}: no such folder; name one with runs, such as runs.")
        self.path = path.resolve()

    def find(self, name: str) -> Path | None:
        """Return what a name stands for.

        Args:
            name: Names of folders and of a file, from this folder on, with ``/`` between them.

        Returns:
            The resolved path; None where nothing is there, a name is hidden or leads up, or a link leads outside.
        """
        parts = name.split("/")
        if any(not part or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            return None
        try:
            found = self.path.joinpath(*parts).resolve(strict=True)
        except (OSError, RuntimeError, ValueError):  # absent, a loop of links, a name that cannot be one
            return None
        return found if self._shows(found) else None

    def name(self, path: Path) -> str:
        """Return the name of a folder or file below this one, as :meth:`find` takes it."""
        return path.relative_to(self.path).as_posix()

    def check(self, run: Path) -> None:
        """Refuse a run or a cross-validation that would have other folders read.

        Args:
            run: Its folder, which lies in this one.

        Raises:
            PocketError: If a link in it, or its record of folds, leads outside.
        """
        for folder, folders, files in os.walk(run):
            folders[:] = [name for name in folders if name not in _NOT_READ]
            for name in (*folders, *files):
                entry = Path(folder, name)
                if entry.is_symlink() and not entry.resolve().is_relative_to(self.path):
                    raise PocketError(f"{self.name(entry)}: is a link that leads outside {self.path}; it is not read.")
        record = run / "crossval.json"
        for fold in read_json(record)["runs"].values() if record.is_file() else ():
            if not (run / str(fold["run"])).resolve().is_relative_to(run):
                raise PocketError(f"{self.name(record)}: {fold['run']!r} leads outside its folder; it is not read.")

    def _shows(self, path: Path) -> bool:
        inside = path.is_relative_to(self.path)
        return inside and not any(part.startswith(".") for part in path.relative_to(self.path).parts)
