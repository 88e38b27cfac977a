"""Reading prepared 2D images.

A cache of images is a folder that ``pocket prepare`` writes::

    dataset.json  names, settings, source files; written last, so it marks a complete cache
    images.npy    float32 (N, C, H, W), the prepared images in the order of the subjects
    targets.csv   subject, class, split, group
    folds.csv     subject, fold, split, group

Where the images have masks, the class may be blank, and there are too::

    labels.npy    uint8 (N, H, W), class of each pixel of the prepared images, 0 is background
    truth/*.npz   uint8 (H, W), one per image, class of each pixel in the size of the image, compressed
    targets.csv   height and width of each image in pixels, height_mm and width_mm of its pixels
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.data.cache import is_changed, is_dataset
from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import load_array, read_json

from .coding import MaskCoding
from .original import ImageOriginal, truth_file

#: Columns of ``targets.csv`` with height and width of a pixel in mm.
PIXEL_COLUMNS = ("height_mm", "width_mm")
#: Column of the same that tells whether the data set gives this size or the file of the image, and its values.
SIZE_SOURCE, DATASET_SIZE, IMAGE_SIZE = "mm_from", "dataset", "image"
#: Differs from the format of a cache of volumes, so that neither is mistaken for the other.
FORMAT = "images-1"
#: Folder of the masks in the size of their images.
TRUTH = "truth"


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
        folds: Fold and split of each image.
        targets: Index of the class of each image, in the order of the subjects; empty where they have masks.
        masks: What turned the masks into class indices; None for images of known class.
        kinds: Class of each image as the data set says, to keep kinds balanced; may be blank where there are masks.
        shapes: Rows and columns of each image where they have masks.
        pixel_mm: Height and width of the pixels of each image in mm; None where that is not known of all.
    """

    path: Path
    channels: list[str]
    classes: list[str]
    size: list[int]
    preprocessing: dict[str, Any]
    hash: str
    subjects: list[str]
    folds: dict[str, Assignment]
    targets: list[int] = field(default_factory=list)
    masks: MaskCoding | None = None
    kinds: list[str] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    pixel_mm: list[tuple[float, float]] | None = None

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
        rows = _read_rows(path / "targets.csv", data["subjects"])
        plain = {key: data[key] for key in keys}
        if "masks" in data:
            masked = _read_masked(path / "targets.csv", rows) | {
                "masks": MaskCoding.from_dict(data["masks"], data["classes"], str(path))
            }
        else:
            masked = {"targets": _find_targets(path / "targets.csv", rows, data["classes"])}
        folds, kinds = read_folds(path / "folds.csv"), [row.get("class", "") for row in rows]
        cache = cls(path=path, folds=folds, kinds=kinds, **plain, **masked)
        count = len(cache.subjects)
        _require_shape(path / "images.npy", cache.images(), (count, len(cache.channels), *cache.size))
        if cache.masks is not None:
            _require_shape(path / "labels.npy", cache.labels(), (count, *cache.size))
            truths = count_truths(path)
            if truths != count:
                raise PocketError(
                    f"{path / TRUTH}: holds {truths:,} masks, expected {count:,}; run `pocket prepare` again."
                )
        return cache

    @property
    def class_of(self) -> dict[str, str]:
        """Name of the class of each image; blank where it has none."""
        return dict(zip(self.subjects, self.kinds, strict=True))

    @property
    def ignore_index(self) -> int | None:
        """Value in ``labels.npy`` of the pixels that do not count; None where all of them count."""
        return None if self.masks is None else self.masks.ignore_index

    def images(self) -> np.ndarray:
        """Return the images ``(N, C, H, W)``, float32, memory-mapped and read-only."""
        return load_array(self.path / "images.npy")

    def labels(self) -> np.ndarray:
        """Return the masks ``(N, H, W)`` of the prepared images, uint8, memory-mapped and read-only."""
        return load_array(self.path / "labels.npy")

    def original(self, row: int) -> ImageOriginal:
        """Return image number ``row`` on its own pixels, for scores."""
        if self.masks is None:
            raise PocketError(f"{self.path}: holds images of known class; prepare a data set with masks.")
        size = None if self.pixel_mm is None else self.pixel_mm[row]
        return ImageOriginal(truth_file(self.path / TRUTH, row), self.shapes[row], self.masks, size)

    def pixel_size(self, row: int) -> tuple[float, float]:
        """Return height and width of a pixel of a prepared image: in mm, or in pixels of the image where unknown."""
        unit = (1.0, 1.0) if self.pixel_mm is None else self.pixel_mm[row]
        height, width = (n * mm / new for n, mm, new in zip(self.shapes[row], unit, self.size, strict=True))
        return height, width


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


def count_truths(path: Path) -> int:
    """Return how many masks in the size of their images a cache holds."""
    return sum(1 for _ in (path / TRUTH).glob("*.npz"))


def pixel_of(row: Mapping[str, str]) -> tuple[float, float] | None:
    """Return height and width of a pixel in mm from a row of ``targets.csv``; None where they are blank."""
    height, width = (row[name] for name in PIXEL_COLUMNS)
    return (float(height), float(width)) if height and width else None


def _read_rows(path: Path, subjects: list[str]) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            row_of = {row["subject"]: row for row in csv.DictReader(file)}
        return [row_of[subject] for subject in subjects]
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise _damaged(path, error) from error


def _find_targets(path: Path, rows: Sequence[Mapping[str, str]], classes: list[str]) -> list[int]:
    try:
        return [classes.index(row["class"]) for row in rows]
    except (KeyError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_masked(path: Path, rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    try:
        shapes = [(int(row["height"]), int(row["width"])) for row in rows]
        sizes = [pixel_of(row) for row in rows]
    except (KeyError, ValueError) as error:
        raise _damaged(path, error) from error
    known = [size for size in sizes if size is not None]
    pixel_mm = known if len(known) == len(sizes) else None  # millimetres and pixels have no mean
    return {"shapes": shapes, "pixel_mm": pixel_mm}


def _damaged(path: Path, error: Exception) -> PocketError:
    return PocketError(
        f"{path}: is missing, or lacks what is known of an image ({error}); run `pocket prepare` with --fresh."
    )


def _require_shape(path: Path, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if array.shape != expected:
        raise PocketError(
            f"{path}: has the shape {array.shape}, expected {expected}; run `pocket prepare` with --fresh."
        )
