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
from lightning_pocket.data.folds import Assignment, assign, write_folds
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts.images import ImageCase, ImageLayout
from lightning_pocket.data.prepare import LOCK, Progress, refuse_differences
from lightning_pocket.data.workers import count_workers, run_tasks
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, remove_partials, to_json, write_csv, write_json

from .cache import FORMAT, read_image_dataset
from .changes import changes
from .checks import ImageInspection
from .chunks import CHUNK, ChunkTask, prepare_chunk, source_records
from .preprocess import ImagePreprocessing
from .read import unpack

_FILES = ("dataset.json", "folds.csv", "targets.csv", "images.npy")
_CHUNKS = "chunks"  # folder for what is needed only while a cache is written: notes of what is finished, raw arrays


@dataclass(frozen=True)
class ImagePreparation:
    """Everything that decides what a cache of images holds.

    Args:
        layout: The raw data set.
        cases: The images to prepare.
        folds: Fold and split of each image.
        preprocessing: How images are prepared.
    """

    layout: ImageLayout
    cases: list[ImageCase]
    folds: dict[str, Assignment]
    preprocessing: ImagePreprocessing

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain types, for ``dataset.json`` and for showing what differs."""
        choices = {"layout": self.layout.name, "classes": list(self.layout.class_names)}
        return choices | self.preprocessing.to_dict()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(N, C, H, W)`` of the prepared images."""
        return (len(self.cases), len(self.preprocessing.channels), *self.preprocessing.size)


def assign_image_folds(
    cases: Sequence[ImageCase], file: Path | None, num_folds: int, seed: int
) -> dict[str, Assignment]:
    """Return fold and split of each image: from a file, else from the layout, else made with a share of every class.

    Args:
        cases: Images with unique names.
        file: CSV file of folds.
        num_folds: Number of folds to make; groups of the layout are never split.
        seed: Seed of the folds to make.

    Raises:
        PocketError: If the file does not fit the images, there are too few of them, or a group comes apart.
    """
    given = {case.subject: case.assignment for case in cases}
    return assign(given, file, num_folds, seed, {case.subject: case.class_name for case in cases})


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
    return all((output / name).is_file() for name in _FILES) and _fits(output / "images.npy", preparation)


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
        p.name not in {*_FILES, _CHUNKS, LOCK} and p.suffix != ".partial" for p in output.iterdir()
    )
    file = output / "dataset.json"
    data = read_json(file) if not foreign and file.is_file() else None
    if foreign or (data is not None and not (is_dataset(data) and data.get("kind") == "images")):
        raise PocketError(f"{output}: exists and is not a cache of images; choose another --output.")


def clear(output: Path) -> None:
    """Delete the cache in a folder, and nothing else in it; the mark of completeness goes first."""
    for name in _FILES:
        (output / name).unlink(missing_ok=True)
    shutil.rmtree(output / _CHUNKS, ignore_errors=True)


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
    array = _open_array(preparation, output)
    try:
        cases = unpack(preparation.cases, output / _CHUNKS)
    except ImageError:
        discard(output)
        raise
    tasks = [
        ChunkTask(tuple(cases[first : first + CHUNK]), first, array, preparation.preprocessing, output / _CHUNKS)
        for first in range(0, len(cases), CHUNK)
    ]
    with progress("preparing", len(cases)) as advance:
        results = run_tasks(prepare_chunk, tasks, count_workers(workers, len(tasks)), _by_chunk(advance, len(cases)))
    return [inspection for result in results for inspection in result]


def discard(output: Path) -> None:
    """Delete what :func:`write_images` wrote."""
    _partial(output).unlink(missing_ok=True)
    shutil.rmtree(output / _CHUNKS, ignore_errors=True)


def finish(preparation: ImagePreparation, output: Path) -> dict[str, Any]:
    """Complete a cache whose images are all written, ``dataset.json`` last.

    Args:
        preparation: What was prepared.
        output: Folder of the cache.

    Returns:
        What ``dataset.json`` holds.
    """
    _partial(output).replace(output / "images.npy")
    rows = [
        {"subject": case.subject, "class": case.class_name, "split": preparation.folds[case.subject].split or ""}
        | {"group": preparation.folds[case.subject].group or ""}
        for case in preparation.cases
    ]
    write_csv(output / "targets.csv", ["subject", "class", "split", "group"], rows)
    write_folds(output / "folds.csv", preparation.folds)
    dataset: dict[str, Any] = {
        "format": FORMAT,
        "kind": "images",
        "channels": preparation.preprocessing.channels,
        "classes": list(preparation.layout.class_names),
        "size": list(preparation.preprocessing.size),
        "preprocessing": preparation.preprocessing.to_dict(),
        "settings": preparation.settings,
        "subjects": [case.subject for case in preparation.cases],
    }
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


def _partial(output: Path) -> Path:
    """Return the name under which images are written; it does not change, so that another run can continue."""
    return output / ".images.npy.partial"


def _open_array(preparation: ImagePreparation, output: Path) -> Path:
    """Make sure that the array of all images is there, with those that an interrupted run wrote."""
    partial = _partial(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "dataset.json").unlink(missing_ok=True)
    if (output / "images.npy").is_file() and not partial.is_file():  # stopped between the last steps
        (output / "images.npy").rename(partial)
    if _fits(partial, preparation):
        return partial
    discard(output)
    remove_partials(output)
    needed = 4 * int(np.prod(preparation.shape))
    free = shutil.disk_usage(output).free
    if needed > free:
        raise PocketError(
            f"{output}: the images take {needed >> 20:,} MiB, and {free >> 20:,} MiB are free; choose another --output "
            "or a smaller --size."
        )
    np.lib.format.open_memmap(partial, "w+", np.float32, preparation.shape)
    return partial


def _fits(path: Path, preparation: ImagePreparation) -> bool:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).shape == preparation.shape
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
