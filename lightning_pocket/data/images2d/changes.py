"""Tells what differs between a finished cache of images and what would be prepared now."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_pocket.data.differences import is_same, setting_lines
from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.data.layouts.images import ImageCase

from .cache import IMAGE_SIZE, PIXEL_COLUMNS, SIZE_SOURCE, pixel_of
from .coding import parse_coding


def changes(
    cache: Path,
    dataset: Mapping[str, Any],
    settings: Mapping[str, Any],
    cases: Sequence[ImageCase],
    folds: Mapping[str, Assignment],
) -> list[str]:
    """Compare a finished cache with what is asked for now, without reading images that kept their date.

    Args:
        cache: Folder of the cache.
        dataset: Its ``dataset.json``.
        settings: Settings of this run.
        cases: Images of the raw data set.
        folds: Fold and split of each image.

    Returns:
        A line per setting that differs, ``setting: old -> new``, and at most one for each other kind of difference.
    """
    lines = setting_lines(dataset["settings"], settings) + _class_lines(dataset, settings["classes"])
    rows = _rows(cache / "targets.csv")
    classes = {subject: row["class"] for subject, row in rows.items()}
    now = {case.subject: case.class_name for case in cases}
    places = read_folds(cache / "folds.csv") if (cache / "folds.csv").is_file() else {}
    names, old = list(now), dataset["subjects"]
    known = set(old)
    found = {
        "images no longer in the data set": [name for name in old if name not in now],
        "images not in the cache": [name for name in names if name not in known],
        "images of another class": [name for name in names if name in classes and classes[name] != now[name]],
        "images with another pixel size": [case.subject for case in cases if _is_rescaled(case, rows)],
        "images in another fold, split or group": [s for s in folds if s in places and places[s] != folds[s]],
        "files with other content": _other_files(cases, dataset["sources"]) if names == old else [],
    }
    return lines + [f"{len(names):,} {what}, such as {names[0]}" for what, names in found.items() if names]


def _class_lines(dataset: Mapping[str, Any], declared: Any) -> list[str]:
    """Return a line where the masks were prepared with the same classes in another order."""
    coding = parse_coding(declared).coding if "masks" in dataset and declared else None
    if coding is None or coding.classes == dataset["classes"]:
        return []
    return [f"order of the classes: {', '.join(dataset['classes'])} -> {', '.join(coding.classes)}"]


def _other_files(cases: Sequence[ImageCase], sources: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the files whose content is not that of the same file when it was prepared, wherever it was then."""
    files = list(dict.fromkeys(file for case in cases for file in case.files))
    if len(files) != len(sources):
        return [str(file) for file in files]
    return [str(file) for file, source in zip(files, sources, strict=True) if not is_same(file, source)]


def _is_rescaled(case: ImageCase, rows: Mapping[str, Mapping[str, str]]) -> bool:
    """Tell whether the data set gives an image another pixel size than it did; that of its file is in the file."""
    row = rows.get(case.subject, {})
    if PIXEL_COLUMNS[0] not in row:
        return False
    if case.pixel_mm is not None:
        return pixel_of(row) != case.pixel_mm
    return pixel_of(row) is not None and row.get(SIZE_SOURCE) != IMAGE_SIZE


def _rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row["subject"]: row for row in csv.DictReader(file)}
