"""What a path is that a report is asked for: told by the files that it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lightning_pocket.errors import PocketError

Kind = Literal["run", "study", "table"]
#: Files by which a folder is known, the first that is there.
_SIGNS: dict[str, Kind] = {
    "crossval.json": "run",
    "manifest.json": "run",
    "study.json": "study",
    "table.csv": "table",
}
_EXAMPLES = 3


def kind_of(path: Path) -> Kind:
    """Return what a folder is; a cross-validation counts as a run.

    Args:
        path: The folder, or one of the files by which it is known.

    Raises:
        PocketError: If it is neither.
    """
    folder = folder_of(path)
    for name, kind in _SIGNS.items():
        if (folder / name).is_file():
            return kind
    if not folder.exists():
        raise PocketError(f"{path}: no such folder. Name the folder of a run, a cross-validation, a table or a study.")
    if not folder.is_dir():
        raise PocketError(f"{path}: is a file; expected the folder of a run, a cross-validation, a table or a study.")
    inner = sorted(child.name for child in folder.iterdir() if any((child / name).is_file() for name in _SIGNS))
    if inner:
        more = ", ..." if len(inner) > _EXAMPLES else ""
        raise PocketError(
            f"{path}: is no result itself, but holds some. Name them ({', '.join(inner[:_EXAMPLES])}{more}), or show "
            f"all of them with `pocket serve {path}`."
        )
    raise PocketError(
        f"{path}: holds none of {', '.join(_SIGNS)}; expected the folder of a run, a cross-validation, a table or a "
        "study. A training that failed before its first step leaves none: its message was on the terminal."
    )


def folder_of(path: Path) -> Path:
    """Return the folder that a path means: itself, or the one of a file by which it is known."""
    return path.parent if path.is_file() and path.name in _SIGNS else path
