"""Which images a user means: files, folders of files, DICOM series, or a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import SimpleITK as sitk

from lightning_pocket.data.folds import IMAGE_SUFFIXES, stem
from lightning_pocket.data.layouts import Case
from lightning_pocket.errors import PocketError

_CHANNEL = re.compile(r"(.+)_(\d{4})$")  # nnU-Net's names: CASE_0000, CASE_0001, one file per channel


def find_inputs(paths: Sequence[str], channels: Sequence[str]) -> list[Case]:
    """Return the cases that are meant by some paths.

    Args:
        paths: Each an image file; a folder that holds one DICOM series; a folder of image files or of DICOM folders;
            or a CSV table with the column subject and one column per channel. Files called ``CASE_0000``,
            ``CASE_0001`` and so on are the channels of one case.
        channels: Names of the channels that a case must have.

    Returns:
        The cases, without labels. Their files may still be unreadable.

    Raises:
        PocketError: If a path does not exist or holds no image, or two cases have the same name.
    """
    cases: dict[str, Case] = {}
    for path in map(Path, paths):
        for case in _find(path, channels):
            before = cases.setdefault(case.subject, case)
            if before.images != case.images:
                raise PocketError(
                    f"images: {before.images[0]} and {case.images[0]} would both be called {case.subject!r}; segment "
                    "them into different --output folders, or name them in a CSV table."
                )
    return list(cases.values())


def _find(path: Path, channels: Sequence[str]) -> list[Case]:
    if not path.exists():
        raise PocketError(f"{path}: no such file or folder.")
    if path.is_file():
        return _read_table(path, channels) if path.suffix.lower() == ".csv" else _group(_channel_files(path), channels)
    files = sorted(file for file in path.iterdir() if file.name.lower().endswith(IMAGE_SUFFIXES))
    if files:
        return _group([file for file in files if not file.name.startswith(".")], channels)
    if _holds_dicom(path):
        return [Case(path.resolve().name, (path,), None)]
    series = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _holds_dicom(folder)]
    if not series:
        known = ", ".join(IMAGE_SUFFIXES[:5])
        raise PocketError(f"{path}: holds no images; expected files such as {known}, or DICOM series.")
    return [Case(folder.name, (folder,), None) for folder in series]


def _holds_dicom(folder: Path) -> bool:
    return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _channel_files(path: Path) -> list[Path]:
    """Return all channels of the case that one file of it stands for."""
    match = _CHANNEL.match(stem(path.name))
    if not match:
        return [path]
    suffix = path.name[len(stem(path.name)) :]
    mates = [file for file in path.parent.iterdir() if file.name.endswith(suffix)]
    return sorted(file for file in mates if (m := _CHANNEL.match(stem(file.name))) and m[1] == match[1])


def _group(files: Sequence[Path], channels: Sequence[str]) -> list[Case]:
    """Put the numbered channels of a case together."""
    groups: dict[str, list[Path]] = {}
    for file in files:
        match = _CHANNEL.match(stem(file.name))
        groups.setdefault(match[1] if match else stem(file.name), []).append(file)
    # A data set of one channel may have numbers that are no channels, such as the slices or dates of its names.
    if len(channels) == 1 and any(len(group) > 1 for group in groups.values()):
        return [Case(stem(file.name), (file,), None) for file in files]
    return [Case(subject, tuple(group), None) for subject, group in groups.items()]


def _read_table(path: Path, channels: Sequence[str]) -> list[Case]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [{key: (value or "").strip() for key, value in row.items() if key} for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PocketError(f"{path}: cannot be read as CSV ({error}).") from error
    missing = [name for name in ("subject", *channels) if rows and name not in rows[0]]
    if missing or not rows:
        found = ", ".join(rows[0]) if rows else "no rows"
        raise PocketError(f"{path}: has {found}; expected the columns subject, {', '.join(channels)}.")
    return [Case(row["subject"], tuple(path.parent / row[name] for name in channels), None) for row in rows]
