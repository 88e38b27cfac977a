"""From a data set of 2D images to a cache, in steps that a killed run can repeat."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.cache import is_dataset
from lightning_pocket.data.checks import Fault
from lightning_pocket.data.folds import Assignment, write_folds
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase, ImageLayout
from lightning_pocket.data.prepare import LOCK, refuse_differences
from lightning_pocket.data.workers import Progress, count_workers, run_tasks
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, remove_partials, to_json, write_csv, write_json

from .cache import (
    DATASET_SIZE,
    FORMAT,
    IMAGE_SIZE,
    PIXEL_COLUMNS,
    SIZE_SOURCE,
    TRUTH,
    count_truths,
    read_image_dataset,
)
from .changes import changes
from .checks import ImageInspection
from .chunks import CHUNK, ChunkTask, MaskOutput, prepare_chunk, source_records
from .coding import MaskCoding
from .preprocess import ImagePreprocessing
from .read import unpack

_FILES = ("dataset.json", "folds.csv", "targets.csv", "images.npy")
_LABELS = "labels.npy"  # where images have masks
_CHUNKS = "chunks"  # folder for what is needed only while a cache is written: notes of what is finished, raw arrays


@dataclass(frozen=True)
class ImagePreparation:
    """Everything that decides what a cache of images holds.

    Args:
        layout: The raw data set.
        cases: The images to prepare.
        folds: Fold and split of each image.
        preprocessing: How images are prepared.
        declared: What the user says of the classes of masks.
        coding: What the values of masks mean; None for images of known class, and until it is found out.
    """

    layout: ImageLayout
    cases: list[ImageCase]
    folds: dict[str, Assignment]
    preprocessing: ImagePreprocessing
    declared: str | None = None
    coding: MaskCoding | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain types, for ``dataset.json`` and for showing what differs."""
        classes = self.declared if self.layout.masked else list(self.layout.class_names)
        return {"layout": self.layout.name, "classes": classes} | self.preprocessing.to_dict()

    @property
    def arrays(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Shape and type of each array of the cache, by the name of its file."""
        found: dict[str, tuple[tuple[int, ...], type[np.generic]]] = {"images.npy": (self.shape, np.float32)}
        if self.layout.masked:
            found[_LABELS] = ((len(self.cases), *self.preprocessing.size), np.uint8)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(N, C, H, W)`` of the prepared images."""
        return (len(self.cases), len(self.preprocessing.channels), *self.preprocessing.size)


def is_up_to_date(preparation: ImagePreparation, output: Path) -> bool:
    """Tell whether a finished cache is what would be prepared.

    Args:
        preparation: What would be prepared.
        output: Folder of the cache.

    Returns:
        False where there is nothing, or an unfinished or damaged cache.

    Raises:
        PocketError: If a finished cache differs, with one line per difference.
    """
    if not (output / "dataset.json").is_file():
        return False
    dataset = read_image_dataset(output)
    found = changes(output, dataset, preparation.settings, preparation.cases, preparation.folds)
    refuse_differences(output, found)
    whole = all((output / name).is_file() for name in _FILES)
    arrays = all(_fits(output / name, shape) for name, (shape, _) in preparation.arrays.items())
    truths = not preparation.layout.masked or count_truths(output) == len(preparation.cases)
    return whole and arrays and truths


def refuse_foreign(output: Path) -> None:
    """Refuse to write into a file or a folder that holds something else than a cache of images.

    Args:
        output: Folder of the cache; it may not exist yet, be empty, or hold an interrupted preparation.

    Raises:
        PocketError: If it holds anything else, such as the raw data set itself or a cache of volumes.
    """
    if not output.exists():
        return
    foreign = not output.is_dir() or any(
        p.name not in {*_FILES, _LABELS, TRUTH, _CHUNKS, LOCK} and p.suffix != ".partial" for p in output.iterdir()
    )
    file = output / "dataset.json"
    data = read_json(file) if not foreign and file.is_file() else None
    if foreign or (data is not None and not (is_dataset(data) and data.get("kind") == "images")):
        raise PocketError(f"{output}: exists and is not a cache of images; choose another --output.")


def clear(output: Path) -> None:
    """Delete the cache in a folder, and nothing else in it; the mark of completeness goes first."""
    for name in (*_FILES, _LABELS):
        (output / name).unlink(missing_ok=True)
    for name in (TRUTH, _CHUNKS):
        shutil.rmtree(output / name, ignore_errors=True)


def write_images(
    preparation: ImagePreparation, output: Path, workers: int | None, progress: Progress
) -> list[ImageInspection]:
    """Inspect every image and write the prepared ones; what an interrupted run wrote is used again.

    Args:
        preparation: What to prepare.
        output: Folder of the cache.
        workers: Number of processes; None for one per CPU core.
        progress: Shows how far the work is.

    Returns:
        What was found in each image. Call :func:`finish` if there is no error, and :func:`discard` otherwise.

    Raises:
        PocketError: If the disk has too little space, or a file of many images is damaged.
    """
    _open_arrays(preparation, output)
    try:
        cases = unpack(preparation.cases, output / _CHUNKS)
    except ImageError:
        discard(output)
        raise
    array, records, masks = _partial(output / "images.npy"), output / _CHUNKS, None
    if preparation.coding is not None:
        masks = MaskOutput(preparation.coding, _partial(output / _LABELS), output / TRUTH)
    tasks = [
        ChunkTask(tuple(cases[first : first + CHUNK]), first, array, preparation.preprocessing, records, masks)
        for first in range(0, len(cases), CHUNK)
    ]
    with progress("preparing", len(cases)) as advance:
        results = run_tasks(prepare_chunk, tasks, count_workers(workers, len(tasks)), _by_chunk(advance, len(cases)))
    return [inspection for result in results for inspection in result]


def discard(output: Path) -> None:
    """Delete what :func:`write_images` wrote."""
    for name in ("images.npy", _LABELS):
        _partial(output / name).unlink(missing_ok=True)
    for name in (TRUTH, _CHUNKS):
        shutil.rmtree(output / name, ignore_errors=True)


def finish(preparation: ImagePreparation, output: Path, inspections: Sequence[ImageInspection] = ()) -> dict[str, Any]:
    """Complete a cache whose images are all written, ``dataset.json`` last.

    Args:
        preparation: What was prepared.
        output: Folder of the cache.
        inspections: What was found in each image; needed where they have masks.

    Returns:
        What ``dataset.json`` holds.
    """
    for name in preparation.arrays:
        _partial(output / name).replace(output / name)
    rows: list[dict[str, Any]] = [
        {"subject": case.subject, "class": case.class_name, "split": preparation.folds[case.subject].split or ""}
        | {"group": preparation.folds[case.subject].group or ""}
        for case in preparation.cases
    ]
    if preparation.layout.masked:
        sizes = [_size_of(case, found) for case, found in zip(preparation.cases, inspections, strict=True)]
        rows = [row | size for row, size in zip(rows, sizes, strict=True)]
    write_csv(output / "targets.csv", list(rows[0]), rows)
    write_folds(output / "folds.csv", preparation.folds)
    dataset: dict[str, Any] = {
        "format": FORMAT,
        "kind": "images",
        "channels": preparation.preprocessing.channels,
        "classes": preparation.coding.classes if preparation.coding else list(preparation.layout.class_names),
        "size": list(preparation.preprocessing.size),
        "preprocessing": preparation.preprocessing.to_dict(),
        "settings": preparation.settings,
        "subjects": [case.subject for case in preparation.cases],
    }
    if preparation.coding is not None:
        dataset["masks"] = preparation.coding.to_dict()
    sources = source_records(preparation.cases)
    dataset["hash"] = _hash(dataset, rows, sources, preparation.folds)
    write_json(output / "dataset.json", dataset | {"sources": sources})
    shutil.rmtree(output / _CHUNKS, ignore_errors=True)
    remove_partials(output)
    return dataset


def has_errors(faults: Sequence[Fault]) -> bool:
    """Tell whether a fault is an error."""
    return any(fault.severity == "error" for fault in faults)


def _hash(
    dataset: Mapping[str, Any],
    rows: Sequence[Mapping[str, str]],
    sources: Sequence[Mapping[str, Any]],
    folds: Mapping[str, Assignment],
) -> str:
    content = {
        "dataset": dataset,
        "targets": rows,
        "sources": [source["sha256"] for source in sources],
        "folds": {name: asdict(place) for name, place in folds.items()},
    }
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def _size_of(case: ImageCase, found: ImageInspection) -> dict[str, Any]:
    """Return rows and columns of an image, and the size of its pixels where that is known, as cells of a table."""
    height, width = found.shape or ("", "")
    pixels = dict(zip(PIXEL_COLUMNS, found.pixel_mm or ("", ""), strict=True))
    source = "" if found.pixel_mm is None else IMAGE_SIZE if case.pixel_mm is None else DATASET_SIZE
    return {"height": height, "width": width, **pixels, SIZE_SOURCE: source}


def _partial(path: Path) -> Path:
    """Return the name under which an array is written; it does not change, so that another run can continue."""
    return path.with_name(f".{path.name}.partial")


def _open_arrays(preparation: ImagePreparation, output: Path) -> None:
    """Make sure that the arrays of all images are there, with those that an interrupted run wrote."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "dataset.json").unlink(missing_ok=True)
    arrays = preparation.arrays
    for name in arrays:
        if (output / name).is_file() and not _partial(output / name).is_file():  # stopped between the last steps
            (output / name).rename(_partial(output / name))
    if all(_fits(_partial(output / name), shape) for name, (shape, _) in arrays.items()):
        return
    discard(output)
    remove_partials(output)
    needed = sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in arrays.values())
    free = shutil.disk_usage(output).free
    if needed > free:
        raise PocketError(
            f"{output}: the images take {needed >> 20:,} MiB, and {free >> 20:,} MiB are free; choose another --output "
            "or a smaller --size."
        )
    for name, (shape, kind) in arrays.items():
        np.lib.format.open_memmap(_partial(output / name), "w+", kind, shape)


def _fits(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).shape == shape
    except (OSError, ValueError):
        return False


def _by_chunk(advance: Callable[[], None], total: int) -> Callable[[], None]:
    """Count images where whole chunks are reported; the last chunk may be smaller."""
    left = total

    def advance_chunk() -> None:
        nonlocal left
        for _ in range(min(CHUNK, left)):
            advance()
        left -= CHUNK

    return advance_chunk
