"""Prepare a run of 2D images and write them into their place; these functions run in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.case_files import identify
from lightning_pocket.data.checks import Fault
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, sha256, write_json

from .checks import ImageInspection, examine
from .preprocess import ImagePreprocessing

#: Images per task: few, so that little is lost when a run is stopped.
CHUNK = 32


@dataclass(frozen=True)
class ChunkTask:
    """Prepare some images.

    Args:
        cases: The images.
        first: Row of the first of them in the array of all.
        array: The ``.npy`` file of all images; it has its full length already.
        preprocessing: How they are prepared.
        records: Folder in which finished chunks are noted.
    """

    cases: tuple[ImageCase, ...]
    first: int
    array: Path
    preprocessing: ImagePreprocessing
    records: Path

    @property
    def record(self) -> Path:
        """File that tells that the chunk is finished."""
        return self.records / f"{self.first:08d}.json"


def prepare_chunk(task: ChunkTask) -> list[ImageInspection]:
    """Inspect and prepare some images, unless an interrupted run did so from the same files.

    Args:
        task: What to prepare. Nothing is noted as finished where an image has an error.

    Returns:
        What was found in each image.

    Raises:
        OSError: If the disk is full.
    """
    files = [identify(file) for file in _files(task.cases)]
    members = [case.member for case in task.cases]
    key = {"files": files, "members": members, "preprocessing": task.preprocessing.to_dict()}
    kept = _kept(task.record, key)
    if kept is not None:
        return kept
    inspections, images = [], []
    for case in task.cases:
        inspection, picture = examine(case, task.preprocessing)
        inspections.append(inspection)
        if picture is not None and task.preprocessing.accepts(picture):
            images.append(task.preprocessing.apply(picture))
    if len(images) == len(task.cases):
        _write(task.array, task.first, np.stack(images))
        write_json(task.record, {"key": key, "inspections": [asdict(found) for found in inspections]})
    return inspections


def source_records(cases: Sequence[ImageCase]) -> list[dict[str, Any]]:
    """Return path, size (bytes), date and SHA-256 of every file that holds images of the cases."""
    return [identify(file) | {"sha256": sha256(file)} for file in _files(cases)]


def _files(cases: Sequence[ImageCase]) -> list[Path]:
    return list(dict.fromkeys(case.file for case in cases))


def _kept(record: Path, key: dict[str, Any]) -> list[ImageInspection] | None:
    try:
        data = read_json(record)
    except PocketError:  # nothing kept, or half written by an older program
        return None
    if not isinstance(data, dict) or data.get("key") != _plain(key):
        return None
    return [_inspection(found) for found in data["inspections"]]


def _plain(key: dict[str, Any]) -> dict[str, Any]:
    return key | {"members": [list(member) if member else None for member in key["members"]]}


def _inspection(data: dict[str, Any]) -> ImageInspection:
    height, width = data["shape"]
    faults = [Fault(**fault) for fault in data["faults"]]
    return ImageInspection(data["subject"], faults, (height, width), data["digest"])


def _write(path: Path, first: int, images: np.ndarray) -> None:
    """Write ``(n, C, H, W)`` float32 into an array file: a memory map would crash the process on a full disk."""
    offset = np.load(path, mmap_mode="r").offset
    with path.open("r+b") as file:
        file.seek(offset + first * images[0].nbytes)
        file.write(np.ascontiguousarray(images, np.float32).tobytes())
