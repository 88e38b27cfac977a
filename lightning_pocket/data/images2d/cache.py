"""Reading prepared 2D images.

A cache of images is a folder that ``pocket prepare`` writes::

    dataset.json  names, settings, source files; written last, so it marks a complete cache
    images.npy    float32 (N, C, H, W), the prepared images in the order of the subjects
    targets.csv   subject, class, split, group
    folds.csv     subject, fold, split, group
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.cache import is_changed, is_dataset
from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import load_array, read_json

#: Differs from the format of a cache of volumes, so that neither is mistaken for the other.
FORMAT = "images-1"


@dataclass(frozen=True)
class ImageCache:
    """A complete set of prepared 2D images.

    Args:
        path: Folder of the cache.
        channels: Names of the channels.
        classes: Names of the classes; the index is the target.
        size: Rows and columns of every image.
        preprocessing: Settings, for ``ImagePreprocessing.from_dict``.
        hash: SHA-256 over the content of the inputs and the settings.
        subjects: Names of the images, in the order of ``images.npy``.
        targets: Index of the class of each image, in the same order.
        folds: Fold and split of each image.
    """

    path: Path
    channels: list[str]
    classes: list[str]
    size: list[int]
    preprocessing: dict[str, Any]
    hash: str
    subjects: list[str]
    targets: list[int]
    folds: dict[str, Assignment]

    @classmethod
    def open(cls, path: str | Path) -> ImageCache:
        """Open a cache and check that it is complete and belongs to its sources.

        Args:
            path: Folder of the cache.

        Raises:
            PocketError: If the cache is absent, incomplete, of another kind or format, or if a source file has changed.
        """
        path = Path(path)
        data = read_image_dataset(path)
        changed = [source["path"] for source in data["sources"] if is_changed(source)]
        if changed:
            more = f" and {len(changed) - 1} more files have" if len(changed) > 1 else " has"
            raise PocketError(
                f"{path}: stale, since {changed[0]}{more} changed after it was prepared; restore it or run "
                "`pocket prepare` again with --fresh."
            )
        keys = ("channels", "classes", "size", "preprocessing", "hash", "subjects")
        cache = cls(
            path=path,
            targets=_read_targets(path / "targets.csv", data["subjects"], data["classes"]),
            folds=read_folds(path / "folds.csv"),
            **{key: data[key] for key in keys},
        )
        expected = (len(cache.subjects), len(cache.channels), *cache.size)
        if cache.images().shape != expected:
            raise PocketError(
                f"{path / 'images.npy'}: has the shape {cache.images().shape}, expected {expected}; run `pocket "
                "prepare` with --fresh."
            )
        return cache

    @property
    def class_of(self) -> dict[str, str]:
        """Name of the class of each image."""
        return {subject: self.classes[index] for subject, index in zip(self.subjects, self.targets, strict=True)}

    def images(self) -> np.ndarray:
        """Return the images ``(N, C, H, W)``, float32, memory-mapped and read-only."""
        return load_array(self.path / "images.npy")


def read_image_dataset(path: Path) -> dict[str, Any]:
    """Return ``dataset.json`` of a cache of images.

    Args:
        path: Folder of the cache.

    Raises:
        PocketError: If the cache is absent, incomplete, or of another kind or format.
    """
    if not (path / "dataset.json").is_file():
        state = "not a complete cache (no dataset.json)" if path.is_dir() else "no such cache"
        raise PocketError(f"{path}: {state}; make it with `pocket prepare DATA --output {path}`.")
    data = read_json(path / "dataset.json")
    if not is_dataset(data):
        raise PocketError(f"{path}: not a cache; give the folder that `pocket prepare` was told to --output.")
    if data.get("kind") != "images":
        raise PocketError(f"{path}: a cache of volumes, not of 2D images; use VolumeDataModule (configs/data/volumes).")
    if data["format"] != FORMAT:
        raise PocketError(
            f"{path}: cache of format {data['format']}, expected {FORMAT}; run `pocket prepare` with --fresh."
        )
    return dict(data)


def _read_targets(path: Path, subjects: list[str], classes: list[str]) -> list[int]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            class_of = {row["subject"]: row["class"] for row in csv.DictReader(file)}
        return [classes.index(class_of[subject]) for subject in subjects]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
        raise PocketError(
            f"{path}: is missing, or lacks the class of an image ({error}); run `pocket prepare` with --fresh."
        ) from error
