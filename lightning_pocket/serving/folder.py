"""The one folder that is read: what lies in it, and nothing that leads out of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError

#: Subfolders of a run whose links nobody is told of: its pages do not show what is in them.
_NOT_SHOWN = {"checkpoints", "predictions", "tensorboard", "wandb"}


class _InnerPath(type(Path())):
    """A path in a folder, for which files count as absent that a link shows but that are not to be read."""

    root: Path

    def is_file(self, **given: Any) -> bool:
        return _is_read(self, self.root) and super().is_file(**given)

    def is_dir(self, **given: Any) -> bool:
        return _is_read(self, self.root) and super().is_dir(**given)

    def open(self, *given: Any, **named: Any) -> Any:
        if not _is_read(self, self.root):
            raise FileNotFoundError(errno.ENOENT, "leads outside", str(self))
        return super().open(*given, **named)


def _is_read(path: Path, root: Path) -> bool:
    """Whether a path stays in a folder, and leads to nothing hidden unless it says so itself, as ``.lock`` does."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(root):
        return False
    *parents, name = ("", *real.relative_to(root).parts)
    return not any(parent.startswith(".") for parent in parents) and (name == path.name or not name.startswith("."))


class ServedFolder:
    """A folder of results, and the names under which what lies in it is asked for.

    All paths that it gives are of a kind to which nothing exists outside the folder, so that what reads a run need not
    know of links.

    Args:
        path: The folder.

    Raises:
        PocketError: If it is none.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise PocketError(f"{path}: no such folder; name one with runs, such as runs.")
        root = path.resolve()
        self.path: Path = type("InnerPath", (_InnerPath,), {"root": root})(root)

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

    def left_out(self, run: Path) -> list[str]:
        """Return the names of the links of a run that lead outside or to hidden files, and so are not read.

        Args:
            run: Its folder, which lies in this one.
        """
        found = []
        for folder, folders, files in os.walk(run):
            folders[:] = [name for name in folders if name not in _NOT_SHOWN]
            entries = [Path(folder, name) for name in (*folders, *files)]
            found += [self.name(entry) for entry in entries if entry.is_symlink() and not _is_read(entry, self.path)]
        return sorted(found)

    def _shows(self, path: Path) -> bool:
        inside = path.is_relative_to(self.path)
        return inside and not any(part.startswith(".") for part in path.relative_to(self.path).parts)
