"""What there is in a folder of results: runs, cross-validations, studies, tables and pages."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

#: Folders in which no results of their own are, only what belongs to one.
_INNER = {"artifacts", "checkpoints", "figures", "logs", "pictures", "predictions", "tensorboard", "test", "wandb"}
#: Folders that are looked into at most, so that a wrong folder does not keep a reader waiting.
MOST_FOLDERS = 20_000


@dataclass
class Results:
    """Folders and files, each sorted by path.

    Args:
        runs: Folders of runs and of cross-validations, and what each is: ``run``, ``fold`` or ``cross-validation``.
        sets: Folders of studies and tables, and what each is: ``study`` or ``table``.
        pages: HTML files.
        is_whole: Whether all of the folder was looked through.
    """

    runs: dict[Path, str] = field(default_factory=dict)
    sets: dict[Path, str] = field(default_factory=dict)
    pages: list[Path] = field(default_factory=list)
    is_whole: bool = True


def find_results(root: Path) -> Results:
    """Look through a folder; hidden folders, prepared data and links are left out.

    Args:
        root: The folder.
    """
    found = Results()
    for count, (folder, folders, files) in enumerate(os.walk(root)):
        if count >= MOST_FOLDERS:
            found.is_whole = False
            break
        path = type(root)(folder)
        folders[:] = sorted(name for name in folders if _is_looked_into(path / name))
        _note(found, path, set(files))
    return found


def _is_looked_into(folder: Path) -> bool:
    name = folder.name
    return not (
        name.startswith(".")
        or name in _INNER
        or name.endswith("_files")
        or folder.is_symlink()
        or (folder / "dataset.json").is_file()  # prepared data
    )


def _note(found: Results, folder: Path, files: set[str]) -> None:
    """Note what a folder is, by what it holds."""
    if "crossval.json" in files:
        found.runs[folder] = "cross-validation"
    elif "manifest.json" in files:
        found.runs[folder] = "fold" if (folder.parent / "crossval.json").is_file() else "run"
    if "study.json" in files:
        found.sets[folder] = "study"
    elif "table.csv" in files:
        found.sets[folder] = "table"
    pages = sorted(name for name in files if name.endswith(".html") and not name.startswith("."))
    found.pages += [folder / name for name in pages]
