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
from .coding import MaskCoding
from .original import truth_file
from .preprocess import ImagePreprocessing, resize_label

#: Images per task: few, so that little is lost when a run is stopped.
CHUNK = 32


@dataclass(frozen=True)
class MaskOutput:
    """Where masks go.

    Args:
        coding: What their values mean.
        array: The ``.npy`` file of all prepared masks; it has its full length already.
        truth: Folder of the masks in the size of their images, one file each.
    """

    coding: MaskCoding
    array: Path
    truth: Path


@dataclass(frozen=True)
class ChunkTask:
    """Prepare some images.

    Args:
        cases: The images.
        first: Row of the first of them in the array of all.
        array: The ``.npy`` file of all images; it has its full length already.
        preprocessing: How they are prepared.
        records: Folder in which finished chunks are noted.
        masks: What is done with their masks; None for images of known class.
    """

    cases: tuple[ImageCase, ...]
    first: int
    array: Path
    preprocessing: ImagePreprocessing
    records: Path
    masks: MaskOutput | None = None

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
    key: dict[str, Any] = {"files": files, "members": members, "preprocessing": task.preprocessing.to_dict()}
    coding = None if task.masks is None else task.masks.coding
    if coding is not None:
        pixels = [case.pixel_mm and list(case.pixel_mm) for case in task.cases]
        key |= {"masks": coding.to_dict(), "classes": coding.classes}
        key |= {"pixels": pixels, "own": [len(case.masks) for case in task.cases]}
    kept = _kept(task.record, key)
    if kept is not None:
        return kept
    found = [examine(case, task.preprocessing, coding) for case in task.cases]
    inspections = [one.inspection for one in found]
    if not any(fault.severity == "error" for inspection in inspections for fault in inspection.faults):
        images = [task.preprocessing.apply(one.picture) for one in found if one.picture is not None]
        _write(task.array, task.first, np.stack(images).astype(np.float32, copy=False))
        if task.masks is not None:
            _write_masks(task, task.masks, [one.label for one in found if one.label is not None])
        write_json(task.record, {"key": key, "inspections": [asdict(inspection) for inspection in inspections]})
    return inspections


def _write_masks(task: ChunkTask, output: MaskOutput, labels: Sequence[np.ndarray]) -> None:
    size = task.preprocessing.size
    _write(output.array, task.first, np.stack([resize_label(label, size) for label in labels]))
    output.truth.mkdir(parents=True, exist_ok=True)
    for row, label in enumerate(labels, start=task.first):
        np.savez_compressed(truth_file(output.truth, row), label)


def source_records(cases: Sequence[ImageCase]) -> list[dict[str, Any]]:
    """Return path, size (bytes), date and SHA-256 of every file that holds images of the cases."""
    return [identify(file) | {"sha256": sha256(file)} for file in _files(cases)]


def _files(cases: Sequence[ImageCase]) -> list[Path]:
    return list(dict.fromkeys(file for case in cases for file in case.files))


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
    pairs = {name: None if data[name] is None else tuple(data[name]) for name in ("shape", "pixel_mm")}
    return ImageInspection(**data | pairs | {"faults": [Fault(**fault) for fault in data["faults"]]})


def _write(path: Path, first: int, images: np.ndarray) -> None:
    """Write ``(n, ...)`` into an array file of the same type: a memory map would crash the process on a full disk."""
    offset = np.load(path, mmap_mode="r").offset
    with path.open("r+b") as file:
        file.seek(offset + first * images[0].nbytes)
        file.write(np.ascontiguousarray(images).tobytes())
