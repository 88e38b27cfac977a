"""Files that are either whole or absent: everything is written to a temporary name and renamed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.errors import PocketError
from lightning_pocket.processes import is_alive, machine

#: What ``torch.load`` raises for files that it has not written, or that are damaged.
DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
)

_PARTIAL = ".partial"
#: Seconds without a change after which what another machine has half written is taken for left behind.
_LEFT_BEHIND_S = 24 * 3600.0


def partial_path(path: Path) -> Path:
    """Return a temporary name, in the same folder, under which ``path`` is written; another one at each call.

    Machines and containers that share a folder have processes with equal numbers: the name tells the machine too.
    """
    return path.with_name(f".{path.name}.{os.getpid()}-{_machine()}-{uuid.uuid4().hex[:8]}{_PARTIAL}")


def remove_partials(folder: Path) -> None:
    """Delete what killed runs left half-written directly inside ``folder``; what may still be written is left.

    Whether a process of this machine runs can be asked. Those of another one, such as a second container on the same
    volume, are taken for killed where they have changed nothing for a day.
    """
    for leftover in folder.glob(f".*{_PARTIAL}*"):
        if _is_written(leftover):
            continue
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _is_written(leftover: Path) -> bool:
    """Whether the process that writes a temporary file or folder may still be at it."""
    process, _, rest = leftover.name.partition(_PARTIAL)[0].rpartition(".")[2].partition("-")
    if rest and rest.partition("-")[0] != _machine():
        try:
            return time.time() - leftover.stat().st_mtime < _LEFT_BEHIND_S
        except OSError:  # it has just been renamed
            return True
    return process.isdecimal() and int(process) != os.getpid() and is_alive(int(process))


@cache
def _machine() -> str:
    """Return a short hash of this machine, fit for a file name."""
    return hashlib.sha256(machine().encode()).hexdigest()[:8]


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a part.

    Args:
        path: File to write; missing folders are made.
        text: Content, stored as UTF-8 with the line ends it has.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)


def check_writable(option: str, path: Path, example: str) -> None:
    """Refuse a file that could not be written, before the work that makes its content.

    Nothing is left behind, and missing folders are not made yet.

    Args:
        option: What the user named the file with, such as ``--output``.
        path: File to write.
        example: Name of such a file, for a user who named a folder.

    Raises:
        PocketError: If it is a folder, or cannot be written.
    """
    if path.is_dir():
        raise PocketError(f"{option} {path}: is a folder. Name a file, such as {path / example}.")
    folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PocketError(
            f"{option} {path}: cannot be written, {folder} takes no files ({error.strerror}). Name another place."
        ) from error


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table, whole or not at all.

    Args:
        path: File to write; missing folders are made.
        columns: Heads of the columns.
        rows: Cells by column; missing ones are left blank.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def to_json(data: Any) -> str:
    """Return ``data`` as JSON with sorted keys: equal data give equal bytes."""
    return json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, data: Any) -> None:
    """Write ``data`` as JSON, whole or not at all."""
    write_text(path, to_json(data))


def load_yaml(text: str) -> Any:
    """Return what YAML says, read by libyaml where PyYAML has it: ten times as quickly.

    Args:
        text: The YAML.

    Raises:
        yaml.YAMLError: If it is not YAML.
    """
    import yaml  # most of what imports this module reads none

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: File to read.

    Returns:
        What the file holds.

    Raises:
        PocketError: If the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PocketError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise PocketError(f"{path}: is not valid JSON ({error}). Mend or replace the file.") from error


def load_array(path: Path) -> np.ndarray:
    """Open an array of the cache without reading it into memory.

    Args:
        path: A ``.npy`` file.

    Returns:
        A read-only memory map.

    Raises:
        PocketError: If the file is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise PocketError(f"{path}: missing or damaged ({error}). Run `pocket prepare` with --fresh.") from error


def load_compressed(path: Path) -> np.ndarray:
    """Read the one array of an ``.npz`` file.

    Args:
        path: File that ``numpy.savez_compressed`` wrote.

    Returns:
        The array.

    Raises:
        PocketError: If the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            array: np.ndarray = content["arr_0"]
            return array
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise PocketError(f"{path}: missing or damaged ({error}). Run `pocket prepare` with --fresh.") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
