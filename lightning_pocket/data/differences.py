"""Tells whether a finished cache is what would be prepared now, and if not, what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_pocket.data.cache import read_case
from lightning_pocket.data.case_files import case_paths, identify
from lightning_pocket.data.folds import Assignment, read_folds
from lightning_pocket.data.integrity import ImageError
from lightning_pocket.data.layouts import Case
from lightning_pocket.storage import sha256


def differences(
    cache: Path,
    dataset: Mapping[str, Any],
    settings: Mapping[str, Any],
    cases: Sequence[Case],
    folds: Mapping[str, Assignment],
) -> list[str]:
    """Compare a finished cache with what is asked for now, without reading images that kept their date.

    Args:
        cache: Folder of the cache.
        dataset: Its ``dataset.json``.
        settings: Settings of this run.
        cases: Cases of the raw data set.
        folds: Fold and split of each case.

    Returns:
        One line per difference, ``setting: old -> new``; none where the cache is up to date.
    """
    lines = setting_lines(dataset["settings"], settings)
    new = {case.subject: case for case in cases}
    lines += [
        f"case {subject}: in the cache -> not in the data set" for subject in dataset["subjects"] if subject not in new
    ]
    for subject, case in new.items():
        if subject in dataset["subjects"]:
            lines += _file_differences(cache, case)
        else:
            lines.append(f"case {subject}: not in the cache -> in the data set")
    old_folds = read_folds(cache / "folds.csv")
    moved = [s for s, assignment in folds.items() if s in old_folds and old_folds[s] != assignment]
    return lines + _first([f"folds: case {s}: {_place(old_folds[s])} -> {_place(folds[s])}" for s in moved])


def setting_lines(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a line for each setting that differs, ``setting: old -> new``."""
    return [
        f"{key}: {_show(before.get(key))} -> {_show(now.get(key))}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]


def is_same(path: Path, source: Mapping[str, Any]) -> bool:
    """Tell whether a file has the content that is on record, without reading it where it kept its place and date.

    Args:
        path: The file.
        source: What ``case_files.identify`` gave for it, and its ``sha256``.

    Raises:
        OSError: If the file is gone.
    """
    now = identify(path)
    if now["size"] != source["size"]:
        return False
    # Moved or touched files have another path or date but the same content.
    return all(now[key] == source[key] for key in ("path", "mtime_ns")) or sha256(path) == source["sha256"]


def _first(lines: list[str], most: int = 3) -> list[str]:
    """Keep a long list of differences of one kind short."""
    return lines if len(lines) <= most else [*lines[:most], f"... and {len(lines) - most} more like these"]


def _file_differences(cache: Path, case: Case) -> list[str]:
    sources = read_case(cache, case.subject)["sources"]
    try:
        paths = case_paths(case)
        if len(paths) != len(sources):
            return [f"case {case.subject}: {len(sources)} files -> {len(paths)} files"]
        return [
            f"file of case {case.subject}: {_moved(source['path'], path)}: content changed"
            for path, source in zip(paths, sources, strict=True)
            if not is_same(path, source)
        ]
    except (OSError, ImageError) as error:
        return [f"case {case.subject}: files were readable -> {error}"]


def _moved(before: str, path: Path) -> str:
    """Return the path of a file, with where it was before only if that is another place."""
    return str(path) if before == str(path.resolve()) else f"{before} -> {path}"


def _show(value: Any) -> str:
    return ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _place(assignment: Assignment) -> str:
    fold = "" if assignment.fold is None else f"fold {assignment.fold}"
    return " ".join(part for part in (fold, assignment.split or "") if part)
