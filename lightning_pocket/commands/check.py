"""Find what is wrong with a raw data set, in one pass and one table."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from lightning_pocket.data.checks import Fault, Inspection, found_labels, inspect, name_faults, parse_classes
from lightning_pocket.data.layouts import Case, find_layout
from lightning_pocket.data.workers import count_workers, run_tasks
from lightning_pocket.reports.progress import show_progress
from lightning_pocket.reports.tables import print_table


def check(data: str, layout: str = "auto", classes: str | None = None, workers: int | None = None) -> None:
    """Find what is wrong with a raw data set, in one pass and one table.

    Args:
        data: Folder of the data set, or its CSV file.
        layout: decathlon, nnunet, table, or auto to find the one that matches.
        classes: Names of the classes in the order of the label values 0, 1, 2 and so on, separated by commas and
            with background first; NAME=VALUE sets another value. By default what the data set declares, and any value
            where it declares nothing.
        workers: Number of processes; one per CPU core by default. Each holds one case in memory.

    Raises:
        SystemExit: With status 1 if there is an error; warnings alone give status 0.
    """
    found = find_layout(data, layout)
    labels = parse_classes(classes) if classes else found.labels
    cases = found.cases()
    faults = name_faults(cases)
    task = partial(_inspect, channels=tuple(found.channels), labels=labels)
    with show_progress("checking", len(cases)) as advance:
        inspections = run_tasks(task, cases, count_workers(workers, len(cases)), advance)
    faults += [fault for inspection in inspections for fault in inspection.faults]
    stop_on_errors(faults, len(cases), found.root)
    names = labels or found_labels(inspections)
    print(_summary(inspections, found.channels, list(names.values())))


def _inspect(case: Case, channels: tuple[str, ...], labels: dict[int, str] | None) -> Inspection:
    return inspect(case, channels, labels)


def stop_on_errors(faults: Sequence[Fault], cases: int, root: Path) -> None:
    """Print every fault and a verdict, and stop if one is an error.

    Args:
        faults: What was found.
        cases: Number of cases.
        root: Folder or file of the data set; files are shown relative to it.

    Raises:
        SystemExit: With status 1 if a fault is an error.
    """
    if not faults:
        return
    folder = root if root.is_dir() else root.parent
    rows = []
    for fault in sorted(faults, key=lambda fault: fault.severity):  # errors first
        file = Path(fault.file)
        shown = file.relative_to(folder) if file.is_relative_to(folder) else file
        note = "warning: " if fault.severity == "warning" else ""
        rows.append((fault.subject, shown, note + fault.finding, fault.remedy))
    print_table(("case", "file", "finding", "remedy"), rows)
    errors = [fault for fault in faults if fault.severity == "error"]
    counts = f"{count(len(errors), 'error')} and {count(len(faults) - len(errors), 'warning')}"
    print(f"{counts} in {len({fault.subject for fault in faults})} of {count(cases, 'case')}")
    if errors:
        raise SystemExit(1)


def count(number: int, noun: str) -> str:
    """Return such as "1 case" or "2 cases"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _summary(inspections: Sequence[Inspection], channels: Sequence[str], classes: Sequence[str]) -> str:
    statistics = [found.statistics for found in inspections if found.statistics]
    shape = " x ".join(f"{n:g}" for n in np.median([case.shape for case in statistics], axis=0))
    spacing = " x ".join(f"{mm:.3g}" for mm in np.median([case.spacing for case in statistics], axis=0))
    return (
        f"{count(len(inspections), 'case')}, channels: {', '.join(channels)}; classes: {', '.join(classes)}\n"
        f"median size {shape} voxels, median spacing {spacing} mm (D x H x W); no errors"
    )
