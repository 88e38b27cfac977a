"""The files of one case in a cache; these functions run in worker processes."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.checks import Fault, Inspection, inspect
from lightning_pocket.data.fingerprint import Statistics, generator
from lightning_pocket.data.images import read_label, read_volume, source_files
from lightning_pocket.data.layouts import Case
from lightning_pocket.data.preprocess import Resolved, apply, class_indices
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import load_array, partial_path, read_json, sha256, to_json, write_json

FOREGROUND_VOXELS = 10_000  # per class and case, kept for drawing patches around a class
_FILES = ("image.npy", "label.npy", "foreground.npy", "truth.npz", "case.json")


@dataclass(frozen=True)
class FingerprintTask:
    """Inspect one case and keep the result in the cache.

    Args:
        case: The case.
        channels: Names of the channels.
        labels: Name of the class of each raw label value; None where undeclared.
        cache: Folder of the cache.
        notes: What label values that are not declared usually are, and how to declare them.
    """

    case: Case
    channels: tuple[str, ...]
    labels: dict[int, str] | None
    cache: Path
    notes: Mapping[int, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """Where the result is kept."""
        return self.cache / "fingerprint" / f"{self.case.subject}.json"


@dataclass(frozen=True)
class PrepareTask:
    """Write the arrays of one case.

    Args:
        case: The case.
        resolved: How to prepare it.
        sources: Its source files, from its fingerprint.
        cache: Folder of the cache.
    """

    case: Case
    resolved: Resolved
    sources: list[dict[str, Any]]
    cache: Path

    @property
    def folder(self) -> Path:
        """Where the case is kept."""
        return self.cache / "cases" / self.case.subject

    @property
    def hash(self) -> str:
        """SHA-256 over the content of the source files and the settings."""
        content = {"settings": self.resolved.to_dict(), "sources": [source["sha256"] for source in self.sources]}
        return hashlib.sha256(to_json(content).encode()).hexdigest()


def case_paths(case: Case) -> list[Path]:
    """Return every file of a case, images first; a DICOM folder gives the files of its series."""
    given = [*case.images, *([case.label] if case.label else [])]
    return [file for path in given for file in source_files(path)]


def identify(path: Path) -> dict[str, Any]:
    """Return absolute path, size (bytes) and date of a file, without reading it."""
    stat = path.stat()
    return {"path": str(path.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def fingerprint_case(task: FingerprintTask) -> Inspection:
    """Inspect one case, or take the result of an interrupted run if its files are the same.

    Args:
        task: What to inspect. The result is kept only where there is no error.

    Returns:
        Faults and statistics.
    """
    labels = None if task.labels is None else {str(value): name for value, name in task.labels.items()}
    key = {"channels": list(task.channels), "labels": labels}
    kept = _kept(task, key)
    if kept is not None:
        return kept
    inspection = inspect(task.case, task.channels, task.labels, task.notes)
    if inspection.statistics is not None:
        sources = [identify(path) | {"sha256": sha256(path)} for path in case_paths(task.case)]
        faults = [asdict(fault) for fault in inspection.faults]
        record = {"key": key, "sources": sources, "faults": faults, "digest": inspection.digest}
        write_json(task.file, record | {"statistics": inspection.statistics.to_dict()})
    return inspection


def _kept(task: FingerprintTask, key: Mapping[str, Any]) -> Inspection | None:
    try:
        record = read_json(task.file)
        now = [identify(path) for path in case_paths(task.case)]
    except (PocketError, OSError):  # nothing kept, or a file is gone: the inspection finds out
        return None
    same = [{name: source[name] for name in ("path", "size", "mtime_ns")} for source in record["sources"]] == now
    if not same or record["key"] != key or "digest" not in record:
        return None
    faults = [Fault(**fault) for fault in record["faults"]]
    return Inspection(task.case.subject, faults, Statistics.from_dict(record["statistics"]), record["digest"])


def is_prepared(task: PrepareTask) -> bool:
    """Tell whether the case is already in the cache, from the same sources and settings."""
    if not is_whole(task.folder):
        return False
    data = read_json(task.folder / "case.json")
    return bool(data.get("hash") == task.hash and data.get("sources") == task.sources)


def is_whole(folder: Path) -> bool:
    """Tell whether every file of a prepared case is there and as long as it says."""
    if not all((folder / name).is_file() for name in _FILES):
        return False
    try:
        for name in _FILES:
            if name.endswith(".npy"):
                load_array(folder / name)
    except PocketError:
        return False
    return zipfile.is_zipfile(folder / "truth.npz")


def prepare_case(task: PrepareTask) -> None:
    """Preprocess one case and write its folder, whole or not at all.

    Args:
        task: What to prepare.
    """
    case = task.case
    if case.label is None:
        raise PocketError(f"{case.subject}: no label is named; name a label file.")
    volume = read_volume(case.images, len(task.resolved.channels))
    raw = read_label(case.label).array
    image, label, geometry = apply(volume, raw, task.resolved)
    if label is None:  # never: a label was given
        raise PocketError(f"{case.label}: gave no label.")
    values, counts = np.unique(label, return_counts=True)
    class_voxels = np.zeros(len(task.resolved.label_values), np.int64)
    classes = values < len(class_voxels)  # ignored voxels have a value behind the last class
    class_voxels[values[classes]] = counts[classes]
    record = {
        "shape": list(label.shape),
        "spacing": list(geometry.prepared.spacing),
        "affine": geometry.prepared.affine.tolist(),
        "geometry": geometry.to_dict(),
        "class_voxels": class_voxels.tolist(),
        "sources": task.sources,
        "hash": task.hash,
    }
    partial = partial_path(task.folder)
    partial.mkdir(parents=True, exist_ok=True)
    np.save(partial / "image.npy", np.ascontiguousarray(image))
    np.save(partial / "label.npy", np.ascontiguousarray(label))
    np.savez_compressed(partial / "truth.npz", class_indices(raw, task.resolved))
    np.save(partial / "foreground.npy", sample_foreground(label, len(class_voxels), case.subject))
    write_json(partial / "case.json", record)
    if task.folder.exists():
        shutil.rmtree(task.folder)
    partial.rename(task.folder)


def sample_foreground(label: np.ndarray, num_classes: int, subject: str) -> np.ndarray:
    """Return where the classes are.

    Args:
        label: Class indices ``(D, H, W)``.
        num_classes: Number of classes with background, which is left out.
        subject: Name of the case; it decides which voxels are drawn.

    Returns:
        ``(N, 4)`` int32, rows (class, d, h, w), sorted; at most 10,000 per class.
    """
    rows = []
    for index in range(1, num_classes):
        voxels = np.flatnonzero(label == index)
        if len(voxels) > FOREGROUND_VOXELS:
            drawn = generator(f"{subject}/{index}").choice(len(voxels), FOREGROUND_VOXELS, replace=False)
            voxels = voxels[np.sort(drawn)]
        places = np.stack(np.unravel_index(voxels, label.shape), axis=1)
        rows.append(np.concatenate([np.full((len(voxels), 1), index), places], axis=1))
    return np.concatenate(rows).astype(np.int32) if rows else np.zeros((0, 4), np.int32)
