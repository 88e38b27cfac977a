"""Reading a prepared, memory-mapped data set.

A cache is a folder that ``pocket prepare`` writes::

    dataset.json                  names, settings, fingerprint; written last, so it marks a complete cache
    folds.csv                     subject, fold, split
    fingerprint/<subject>.json    statistics of the raw case
    cases/<subject>/image.npy     float32 (C, D, H, W), preprocessed intensities
    cases/<subject>/label.npy     uint8 (D, H, W), class of each voxel, 0 is background
    cases/<subject>/foreground.npy  int32 (N, 4), rows (class, d, h, w) of a sample of foreground voxels
    cases/<subject>/truth.npz     uint8 (D, H, W), the label on the grid of the raw image, compressed
    cases/<subject>/case.json     spacing, affine, geometry, voxels per class, source files
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import load_array, load_compressed, read_json, sha256

FORMAT = 2


@dataclass(frozen=True)
class CachedCase:
    """One prepared case; small to pickle, its arrays stay on disk until they are indexed.

    Args:
        subject: Name of the case.
        folder: Where its files are.
        shape: Voxels along (D, H, W).
        spacing: Voxel size in mm along (D, H, W).
        affine: 4 x 4 rows, from (d, h, w, 1) to RAS+ mm.
        class_voxels: Voxels of each class, background first.
        geometry: How the prepared grid came from the original one, for ``preprocess.Geometry.from_dict``.
    """

    subject: str
    folder: Path
    shape: tuple[int, int, int]
    spacing: list[float]
    affine: list[list[float]]
    class_voxels: list[int]
    geometry: dict[str, Any]

    def image(self) -> np.ndarray:
        """Return the image ``(C, D, H, W)``, float32, memory-mapped and read-only."""
        return load_array(self.folder / "image.npy")

    def label(self) -> np.ndarray:
        """Return the label ``(D, H, W)``, uint8 class indices, memory-mapped and read-only."""
        return load_array(self.folder / "label.npy")

    def foreground(self) -> np.ndarray:
        """Return sampled foreground voxels ``(N, 4)``: int32 rows (class, d, h, w), sorted by class."""
        return load_array(self.folder / "foreground.npy")

    def truth(self) -> np.ndarray:
        """Return the label ``(D, H, W)`` on the grid of the raw image in LPS orientation, uint8 class indices."""
        return load_compressed(self.folder / "truth.npz")


@dataclass(frozen=True)
class Cache:
    """A complete prepared data set.

    Args:
        path: Folder of the cache.
        channels: Names of the image channels.
        classes: Names of the classes, background first; the index is the value in ``label.npy``.
        spacing: Voxel size of every prepared image in mm along (D, H, W); None where each case keeps its own.
        preprocessing: Resolved settings, for ``preprocess.Resolved.from_dict``.
        hash: SHA-256 over the content of the inputs and the settings.
        subjects: Names of the cases.
        folds: Fold and split of each case.
        fingerprint: Summary statistics of the raw data set.
        ignore_index: Value in ``label.npy`` of the voxels that do not count; None where all of them count.
        regions: Class indices of named parts that are scored together.
    """

    path: Path
    channels: list[str]
    classes: list[str]
    spacing: list[float] | None
    preprocessing: dict[str, Any]
    hash: str
    subjects: list[str]
    folds: dict[str, Assignment]
    fingerprint: dict[str, Any]
    ignore_index: int | None = None
    regions: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def open(cls, path: str | Path) -> Cache:
        """Open a cache and check that it is complete and belongs to its sources.

        Args:
            path: Folder of the cache.

        Returns:
            The cache.

        Raises:
            PocketError: If the cache is absent, incomplete, of another format, or if a source file has changed.
        """
        path = Path(path)
        data = read_dataset(path)
        for subject in data["subjects"]:
            for source in read_case(path, subject)["sources"]:
                if is_changed(source):
                    raise PocketError(
                        f"{path}: stale, since {source['path']} (case {subject}) has changed after it was prepared; "
                        "restore the file or run `pocket prepare` again with --fresh."
                    )
        keys = ("channels", "classes", "spacing", "preprocessing", "hash", "subjects", "fingerprint")
        return cls(
            path=path,
            folds=read_folds(path / "folds.csv"),
            ignore_index=data.get("ignore_index"),
            regions=data.get("regions", {}),
            **{key: data[key] for key in keys},
        )

    def case(self, subject: str) -> CachedCase:
        """Return one case.

        Args:
            subject: Name of the case.

        Returns:
            The case, with its arrays still on disk.

        Raises:
            PocketError: If the cache has no such case, or its files are gone.
        """
        if subject not in self.folds:
            raise PocketError(f"{self.path}: has no case '{subject}'; its cases are listed in folds.csv.")
        data = read_case(self.path, subject)
        depth, height, width = data["shape"]
        return CachedCase(
            subject=subject,
            folder=self.path / "cases" / subject,
            shape=(depth, height, width),
            spacing=data["spacing"],
            affine=data["affine"],
            class_voxels=data["class_voxels"],
            geometry=data["geometry"],
        )


def read_dataset(path: Path) -> dict[str, Any]:
    """Return ``dataset.json`` of a cache.

    Args:
        path: Folder of the cache.

    Returns:
        What the file holds.

    Raises:
        PocketError: If the cache is absent, incomplete or of another format.
    """
    if not path.is_dir():
        raise PocketError(f"{path}: no such cache; make it with `pocket prepare DATA --output {path}`.")
    if not (path / "dataset.json").is_file():
        raise PocketError(
            f"{path}: not a complete cache (no dataset.json); run `pocket prepare DATA --output {path}` to the end."
        )
    data = read_json(path / "dataset.json")
    if not is_dataset(data):
        raise PocketError(f"{path}: not a cache; give the folder that `pocket prepare` was told to --output.")
    if data.get("kind") == "images":
        has, config = ("masks", "segment_images") if "masks" in data else ("classes", "classify_images")
        raise PocketError(f"{path}: is a cache of images with {has}; train on it with --config {config}.")
    if data["format"] != FORMAT:
        raise PocketError(
            f"{path}: cache of format {data['format']}, expected {FORMAT}; run `pocket prepare` with --fresh."
        )
    return dict(data)


def is_dataset(data: Any) -> bool:
    """Tell whether this is the ``dataset.json`` of a cache: raw data sets have a file of the same name."""
    return isinstance(data, dict) and {"format", "hash", "subjects", "settings"} <= set(data)


def read_case(path: Path, subject: str) -> dict[str, Any]:
    """Return ``case.json`` of one case of the cache at ``path``."""
    data: dict[str, Any] = read_json(path / "cases" / subject / "case.json")
    return data


def is_changed(source: dict[str, Any]) -> bool:
    """Tell whether a source file differs from its record; a file that is gone does not.

    Args:
        source: ``path``, ``size`` (bytes), ``mtime_ns`` and ``sha256`` of the file when it was prepared.
    """
    path = Path(source["path"])
    try:
        stat = path.stat()
    except OSError:
        return False
    if stat.st_size != source["size"]:
        return True
    # A copied or touched file has a new date but the same content.
    return bool(stat.st_mtime_ns != source["mtime_ns"] and sha256(path) != source["sha256"])
