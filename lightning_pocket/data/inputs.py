"""Which images a user means: files, folders of files, DICOM series, or a table."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import SimpleITK as sitk

from lightning_pocket.data.checks import name_faults
from lightning_pocket.data.folds import VOLUME_SUFFIXES, stem
from lightning_pocket.data.layouts import Case
from lightning_pocket.data.layouts.base import is_hidden
from lightning_pocket.data.layouts.image_masks import images_among, orphan_masks
from lightning_pocket.data.layouts.images import IMAGE_2D_SUFFIXES, is_picture, picture_stem
from lightning_pocket.errors import PocketError

_CHANNEL = re.compile(r"(.+)_(\d{4})$")  # nnU-Net's names: CASE_0000, CASE_0001, one file per channel


def find_inputs(paths: Sequence[str], channels: Sequence[str]) -> list[Case]:
    """Return the cases that are meant by some paths.

    Args:
        paths: Each an image file; a folder that holds one DICOM series; a folder of image files or of DICOM folders;
            or a CSV table with the column subject and one column per channel. Where there are several channels, files
            called ``CASE_0000``, ``CASE_0001`` and so on are those of one case.
        channels: Names of the channels that a case must have.

    Returns:
        The cases, without labels. Their files may still be missing or unreadable.

    Raises:
        PocketError: If a path does not exist or holds no image, or a case has a name that another one has or that
            cannot name a file.
    """
    return _collect(case for path in map(Path, paths) for case in _find(path, channels))


def find_pictures(paths: Sequence[str]) -> list[Case]:
    """Return the 2D images that are meant by some paths.

    Args:
        paths: Each an image file; a folder of image files; or a CSV table with the columns subject and image. In a
            folder, a file called ``NAME_mask`` is no image, unless it has a mask of its own; where ``NAME`` is missing
            there is a warning.

    Returns:
        The images, without masks. Their files may still be missing or unreadable.

    Raises:
        PocketError: As :func:`find_inputs`.
    """
    return _collect(case for path in map(Path, paths) for case in _find_flat(path))


def _find_flat(path: Path) -> list[Case]:
    if not path.exists():
        raise PocketError(f"{path}: no such file or folder.")
    if path.is_file():
        is_table = path.suffix.lower() == ".csv"
        return _read_table(path, ["image"]) if is_table else [Case(picture_stem(path), (path,), None)]
    files = sorted(file for file in path.iterdir() if is_picture(file))
    images = images_among(files)
    strays = orphan_masks(files)
    if not images:
        masks = f" but what is called like masks ({strays[0].name}), which files given by name may be" if strays else ""
        expected = f"expected files such as {', '.join(IMAGE_2D_SUFFIXES)} or .dcm"
        raise PocketError(f"{path}: holds no images{masks}; {expected}{_elsewhere(path, is_picture)}.")
    if strays:
        many = f"{len(strays):,} files called like masks of images that are not there are left out"
        one = "1 file called like the mask of an image that is not there is left out"
        what = one if len(strays) == 1 else many
        _warn(f"{path}: {what} ({strays[0].name}); give by name what is an image")
    _warn_of_folders(path, is_picture)
    return [Case(picture_stem(file), (file,), None) for file in images]


def _collect(found: Iterable[Case]) -> list[Case]:
    """Return cases that have names of their own, which can be names of files."""
    cases: dict[str, Case] = {}
    for case in found:
        before = cases.setdefault(case.subject, case)
        if before.images != case.images:
            raise PocketError(
                f"images: {before.images[0]} and {case.images[0]} would both be called {case.subject!r}; give "
                "them different names in the column subject of a CSV table, or different --output folders."
            )
    for fault in name_faults(list(cases.values())):
        raise PocketError(f"{fault.file}: the case is called {fault.subject!r}; {fault.remedy} in the name of a case.")
    return list(cases.values())


def _find(path: Path, channels: Sequence[str]) -> list[Case]:
    if not path.exists():
        raise PocketError(f"{path}: no such file or folder.")
    if path.is_file():
        return _read_table(path, channels) if path.suffix.lower() == ".csv" else _group([path], len(channels))
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    # Pictures beside a DICOM series are no volumes.
    files = [file for file in entries if _is_volume(file)]
    if files:
        _warn_of_folders(path, _is_volume)
        return _group(files, len(channels))
    if _holds_dicom(path):
        return [Case(path.resolve().name, (path,), None)]
    series = [folder for folder in entries if folder.is_dir() and _holds_dicom(folder)]
    if not series:
        known = ", ".join(VOLUME_SUFFIXES)
        expected = f"expected files such as {known}, or DICOM series"
        raise PocketError(f"{path}: holds no images; {expected}{_elsewhere(path, _is_volume)}.")
    return [Case(folder.name, (folder,), None) for folder in series]


def _is_volume(file: Path) -> bool:
    return file.name.lower().endswith(VOLUME_SUFFIXES) and not file.name.startswith(".")


def _warn_of_folders(path: Path, is_image: Callable[[Path], bool]) -> None:
    """Warn of images in the folders inside a folder of images: only its own files are taken."""
    below = _below(path, is_image)
    if below:
        what = "1 image in a subfolder is" if len(below) == 1 else f"{len(below):,} images in subfolders are"
        _warn(f"{path}: {what} left out ({below[0].relative_to(path)}); give the folders too if they are meant")


def _elsewhere(path: Path, is_image: Callable[[Path], bool]) -> str:
    """Return what helps a user whose images are in the folders inside the one given, to end an error with."""
    below = _below(path, is_image)
    return f"; its subfolders hold {len(below):,}: give those, such as {below[0].parent}" if below else ""


def _below(path: Path, is_image: Callable[[Path], bool]) -> list[Path]:
    """Return the images in the folders inside a folder, without what is hidden."""
    folders = (folder for folder in sorted(path.iterdir()) if folder.is_dir() and not folder.name.startswith("."))
    files = (file for folder in folders for file in sorted(folder.rglob("*")) if not is_hidden(file, path))
    return [file for file in files if is_image(file) and file.is_file()]


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)


def _holds_dicom(folder: Path) -> bool:
    return bool(sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)))


def _group(files: Iterable[Path], channels: int) -> list[Case]:
    """Put the numbered channels of a case together."""
    cases: dict[tuple[str, str], Case] = {}
    for file in files:
        subject, suffix = stem(file.name), file.name[len(stem(file.name)) :]
        match = _CHANNEL.match(subject)
        if channels == 1:  # other numbers may be dates or counts
            subject = subject.removesuffix("_0000")
        elif match and file.with_name(f"{match[1]}_0000{suffix}").is_file():
            subject = match[1]
        images: tuple[Path, ...] = (file,)
        if subject != stem(file.name) and channels > 1:
            images = _channel_files(file.with_name(f"{subject}_0000{suffix}"), subject, suffix, channels)
        cases[subject, suffix] = Case(subject, images, None)
    return list(cases.values())


def _channel_files(first: Path, subject: str, suffix: str, channels: int) -> tuple[Path, ...]:
    """Return the files of all channels, those that should be there and those that should not."""
    expected = [first.with_name(f"{subject}_{channel:04d}{suffix}") for channel in range(channels)]
    beyond = first.with_name(f"{subject}_{channels:04d}{suffix}")
    return (*expected, beyond) if beyond.exists() else tuple(expected)


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
    blank = next((number for number, row in enumerate(rows, start=2) if not row["subject"]), None)
    if blank:
        raise PocketError(f"{path}, line {blank}: the subject is blank; give each case a name.")
    for number, row in enumerate(rows, start=2):
        empty = [name for name in channels if not row[name]]
        if empty:
            raise PocketError(f"{path}, line {number}: the column {empty[0]} is blank; name an image of this channel.")
    return [Case(row["subject"], tuple(path.parent / row[name] for name in channels), None) for row in rows]
