"""From a raw data set to a cache, in steps that a killed run can repeat."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_pocket.data.cache import FORMAT, is_dataset, read_dataset
from lightning_pocket.data.case_files import (
    FingerprintTask,
    PrepareTask,
    fingerprint_case,
    is_prepared,
    is_whole,
    prepare_case,
)
from lightning_pocket.data.checks import Fault, Inspection, found_labels, unlisted_faults
from lightning_pocket.data.copies import volume_copies
from lightning_pocket.data.differences import differences
from lightning_pocket.data.fingerprint import summarize
from lightning_pocket.data.folds import Assignment, write_folds
from lightning_pocket.data.layouts import Case, Layout
from lightning_pocket.data.layouts.base import counted_labels, region_classes
from lightning_pocket.data.preprocess import Preprocessing, Resolved, resolve
from lightning_pocket.data.workers import Progress, count_workers, run_tasks
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, remove_partials, to_json, write_json

#: Held by the process that prepares a cache.
LOCK = ".lock"


@dataclass(frozen=True)
class Preparation:
    """Everything that decides what a cache holds.

    Args:
        layout: The raw data set.
        cases: Its cases.
        labels: Name of the class of each raw label value, several values of one name where a class is merged; None
            takes the values that occur.
        folds: Fold and split of each case.
        preprocessing: How images are prepared.
    """

    layout: Layout
    cases: list[Case]
    labels: dict[int, str] | None
    folds: dict[str, Assignment]
    preprocessing: Preprocessing

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as plain types, for ``dataset.json`` and for showing what differs."""
        classes = {str(value): name for value, name in self.labels.items()} if self.labels else None
        choices = {"layout": self.layout.name, "channels": list(self.layout.channels), "classes": classes}
        return choices | asdict(self.preprocessing)


def is_up_to_date(preparation: Preparation, output: Path) -> bool:
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
    dataset = read_dataset(output)
    if not all(is_whole(output / "cases" / subject) for subject in dataset["subjects"]):
        return False
    found = differences(output, dataset, preparation.settings, preparation.cases, preparation.folds)
    refuse_differences(output, found)
    return True


def refuse_differences(output: Path, found: Sequence[str]) -> None:
    """Refuse a finished cache that is not what would be prepared.

    Args:
        output: Folder of the cache.
        found: A line for each difference.

    Raises:
        PocketError: If there is any.
    """
    if found:
        lines = "\n".join(f"  {line}" for line in found)
        raise PocketError(
            f"{output}: was prepared otherwise; use --fresh to prepare it again or choose another --output. "
            f"What differs:\n{lines}"
        )


def refuse_foreign(output: Path) -> None:
    """Refuse to write into a file or a folder that holds something else than a cache.

    Args:
        output: Folder of the cache; it may not exist yet, be empty, or hold an interrupted preparation.

    Raises:
        PocketError: If it holds anything else, such as the raw data set itself.
    """
    if not output.exists():
        return
    own = {"cases", "fingerprint", "folds.csv", "dataset.json", LOCK}
    foreign = not output.is_dir() or any(p.name not in own and p.suffix != ".partial" for p in output.iterdir())
    file = output / "dataset.json"
    if foreign or (file.is_file() and not is_dataset(read_json(file))):
        raise PocketError(f"{output}: exists and is not a cache; choose another --output.")


def clear(output: Path) -> None:
    """Delete the cache in a folder, and nothing else in it; the mark of completeness goes first."""
    for name in ("dataset.json", "folds.csv"):
        (output / name).unlink(missing_ok=True)
    for name in ("cases", "fingerprint"):
        shutil.rmtree(output / name, ignore_errors=True)


def inspect_cases(
    preparation: Preparation, output: Path, workers: int | None, progress: Progress
) -> tuple[list[Inspection], list[Fault]]:
    """Inspect every case; results of an interrupted run are used again.

    Args:
        preparation: What to prepare.
        output: Folder of the cache.
        workers: Number of processes; None for one per CPU core.
        progress: Shows how far the work is.

    Returns:
        One inspection per case, and every fault. Where a fault is an error, nothing of this run is left on disk.
    """
    layout, cases = preparation.layout, preparation.cases
    tasks = [FingerprintTask(c, tuple(layout.channels), preparation.labels, output, layout.notes) for c in cases]
    before = {task.file for task in tasks if task.file.exists()}
    with progress("checking", len(tasks)) as advance:
        inspections = run_tasks(fingerprint_case, tasks, count_workers(workers, len(tasks)), advance)
    found = [fault for inspection in inspections for fault in inspection.faults]
    found += volume_copies(cases, inspections, (preparation.folds[case.subject] for case in cases))
    faults = unlisted_faults(layout.unlisted(), found, layout.roles)
    if any(fault.severity == "error" for fault in faults):
        for task in tasks:
            if task.file not in before:
                task.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds results of an interrupted run
            (output / "fingerprint").rmdir()
    return inspections, faults


def write_cache(
    preparation: Preparation,
    inspections: Sequence[Inspection],
    output: Path,
    workers: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Write what is missing of a cache, and ``dataset.json`` last.

    Args:
        preparation: What to prepare.
        inspections: From ``inspect_cases``, without errors.
        output: Folder of the cache.
        workers: Number of processes; None for one per CPU core.
        progress: Shows how far the work is.

    Returns:
        What ``dataset.json`` holds.
    """
    channels = preparation.layout.channels
    labels = preparation.labels or found_labels(inspections)
    statistics = [found.statistics for found in inspections if found.statistics is not None]
    fingerprint = summarize(statistics, channels, counted_labels(labels))
    resolved = resolve(preparation.preprocessing, fingerprint, channels, labels)
    _remove_leftovers(output, {case.subject for case in preparation.cases})
    tasks = [PrepareTask(case, resolved, _sources(output, case.subject), output) for case in preparation.cases]
    missing = [task for task in tasks if not is_prepared(task)]
    with progress("preparing", len(missing)) as advance:
        run_tasks(prepare_case, missing, count_workers(workers, len(missing)), advance)
    write_folds(output / "folds.csv", preparation.folds)
    dataset = _describe(preparation, labels, resolved, fingerprint)
    dataset["hash"] = _hash(dataset, [task.hash for task in tasks], preparation.folds)
    write_json(output / "dataset.json", dataset)
    return dataset


def _describe(
    preparation: Preparation, labels: Mapping[int, str], resolved: Resolved, fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "channels": list(preparation.layout.channels),
        "classes": [labels[value] for value in resolved.label_values],
        "ignore_index": resolved.ignore_index,
        "regions": region_classes(preparation.layout.regions, labels),
        "spacing": list(resolved.spacing) if resolved.spacing else None,
        "preprocessing": resolved.to_dict(),
        "subjects": [case.subject for case in preparation.cases],
        "settings": preparation.settings,
        "fingerprint": fingerprint,
    }


def _hash(dataset: Mapping[str, Any], hashes: Sequence[str], folds: Mapping[str, Assignment]) -> str:
    content = {"dataset": dataset, "cases": hashes, "folds": {name: asdict(place) for name, place in folds.items()}}
    return hashlib.sha256(to_json(content).encode()).hexdigest()


def _sources(output: Path, subject: str) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = read_json(output / "fingerprint" / f"{subject}.json")["sources"]
    return sources


def _remove_leftovers(output: Path, subjects: set[str]) -> None:
    """Delete half-written files and cases that are no longer in the data set."""
    (output / "dataset.json").unlink(missing_ok=True)
    for folder in (output, output / "cases", output / "fingerprint"):
        remove_partials(folder)
    for path in (output / "cases").glob("*"):
        if path.name not in subjects:
            shutil.rmtree(path)
    for path in (output / "fingerprint").glob("*.json"):
        if path.stem not in subjects:
            path.unlink()
