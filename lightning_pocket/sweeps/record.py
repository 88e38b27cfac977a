"""What ties the folder of a study to its storage: what the command was given, and a key that both of them have."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, write_text

from .study import SweepStudy
from .study_storage import JOURNAL, VARIABLE, redact

#: The copy of the file in the folder of a study, and what else the command was given.
COPY, RECORD = "sweep.yaml", "study.json"
#: Written before the study is made; the record is the sign that it is.
KEY = ".study.key"


def read_record(folder: Path) -> dict[str, Any]:
    """Return what the command of a study was given, nothing where the folder holds none.

    Raises:
        PocketError: If the file is damaged.
    """
    found: dict[str, Any] = read_json(folder / RECORD) if (folder / RECORD).is_file() else {}
    return found


def make_key(folder: Path) -> str:
    """Return the key of the study of a folder, a new one where there is none; to be called by one process at a time."""
    if not read_key(folder):
        write_text(folder / KEY, f"{uuid.uuid4().hex}\n")
    return read_key(folder)


def read_key(folder: Path) -> str:
    """Return the key of the study of a folder; empty where no study was begun."""
    return (folder / KEY).read_text(encoding="utf-8").strip() if (folder / KEY).is_file() else ""


def check_storage(folder: Path, url: str | None) -> None:
    """Refuse a storage of another kind than that of the study: a second study would hide the first.

    Args:
        folder: Folder of the study.
        url: Database that is asked for; None for the journal file.

    Raises:
        PocketError: If the study is in a database and the journal file is asked for, or the other way.
    """
    record = read_record(folder)
    recorded = record.get("storage")
    if recorded and url is None:
        raise PocketError(
            f"{folder}: the study is in {recorded}. Give --storage, or set {VARIABLE}; for another study, name another "
            "folder with --output."
        )
    if url is not None and not recorded and (record or (folder / JOURNAL).is_file()):
        raise PocketError(
            f"--storage {redact(url)}: the study of {folder} is in its file {JOURNAL}. Leave --storage out and unset "
            f"{VARIABLE}; for another study, name another folder with --output."
        )


def check_key(study: SweepStudy, url: str | None) -> None:
    """Refuse a database whose study of this name belongs to another folder: its runs are not here.

    Args:
        study: A study of this name, which need not be there.
        url: Its database; None for the journal file, which lies in the folder itself.

    Raises:
        PocketError: If it belongs to another folder, or the folder's study is in another database.
    """
    if url is None:
        return
    record, shown = read_record(study.folder), redact(url)
    if not study.exists:
        if record.get("storage", shown) != shown:
            raise PocketError(
                f"--storage {shown}: holds no study {study.name!r}; that of {study.folder} is in {record['storage']}. "
                "Give that one; for another study, name another folder with --output."
            )
        return
    attributes = study.study.user_attrs
    if not attributes.get("key") or attributes["key"] != read_key(study.folder):
        place = attributes.get("folder", "unknown")
        raise PocketError(
            f"--storage {shown}: its study {study.name!r} is of another folder ({place}), not of {study.folder}. Go on "
            f"there with --output; to start over, name a folder that is not called {study.name}, or delete the study: "
            f"optuna delete-study --study-name {study.name} --storage URL."
        )
