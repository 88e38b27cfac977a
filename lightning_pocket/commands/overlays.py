"""Show test cases with the contours of truth and prediction, several networks side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lightning_pocket.errors import PocketError
from lightning_pocket.storage import check_writable

if TYPE_CHECKING:
    from lightning_pocket.reports.collect import RunResult

_NOTES = {
    False: "Cases were chosen by their mean Dice over the runs: evenly spaced in rank, from the worst to the best.",
    True: "Cases were chosen by name.",
}


def overlays(
    runs: list[str],
    output: str | None = None,
    names: str | None = None,
    cases: str | None = None,
    max_cases: int = 6,
    checkpoint: Literal["last", "best"] | None = None,
) -> None:
    """Draw the contours of truth and prediction of test cases, one panel for each run.

    The networks predict the cases anew, as `pocket test` did. A 2D image is shown as it is in its file; of a volume the
    axial slice with most foreground.

    Args:
        runs: Run folders; cross-validations have one for each fold.
        output: HTML file to write, always needed.
        names: What to call the runs, separated by commas; by default what tells their folders apart.
        cases: Test cases to show, separated by commas; by default some from the worst to the best.
        max_cases: Number of cases to show where none are named.
        checkpoint: Weights to use; by default those that were tested, or the last.

    Raises:
        PocketError: If the page cannot be written, a folder holds no run, its data changed, or a case is none of its
            test cases.
    """
    if not output:
        raise PocketError("--output: is missing; name a file, such as --output overlays.html.")
    check_writable("--output", Path(output), "overlays.html")
    if max_cases < 1:
        raise PocketError(f"--max_cases {max_cases}: expected 1 or more.")
    from lightning_pocket.reports.collect import read_runs

    results = _named(read_runs([Path(run) for run in runs]), _split(names))
    from lightning_pocket.reports.overlay_page import write_overlays
    from lightning_pocket.studies.overlays import choose_cases, predict_overlays  # torch only now

    named = _split(cases)
    subjects = choose_cases(results, named, max_cases)
    print(f"predicting {_counted(len(subjects), 'case')} with {_counted(len(results), 'network')} ...", flush=True)
    found_cases = predict_overlays(results, subjects, checkpoint)
    given = {"names": names, "cases": ",".join(subjects), "checkpoint": checkpoint}
    options = [f"--{name}={value}" for name, value in given.items() if value]
    command = shlex.join(["pocket", "overlays", *runs, f"--output={output}", *options])
    notes = [_NOTES[bool(named)], *_enlarged(found_cases.enlarged, len(subjects))]
    write_overlays(Path(output), found_cases.cases, found_cases.num_classes, notes, command)
    print(f"page: {output}")


def _enlarged(subjects: Sequence[str], shown: int) -> list[str]:
    """Return what a reader must know of pictures that are coarser than the contours on them."""
    if not subjects:
        return []
    which = "all images" if len(subjects) == shown else ", ".join(subjects)
    return [
        f"The pictures are the prepared ones, enlarged, of {which}: the files are no longer where they were when "
        "the data were prepared."
    ]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _named(results: Sequence[RunResult], names: Sequence[str]) -> list[RunResult]:
    """Return the runs with the names that are given, or what tells their folders apart."""
    folders = [result.path.resolve() for result in results]
    if len(set(folders)) < len(folders):
        raise PocketError("runs: a folder is named twice; name each once.")
    if not names:
        names = _apart([folder.parts for folder in folders])
    if len(set(names)) != len(results):
        raise PocketError(f"--names {','.join(names)}: expected {len(results)} different names, one for each run.")
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]


def _apart(paths: Sequence[Sequence[str]]) -> list[str]:
    """Return paths without the parts at their beginning and end that all share."""
    if len(paths) == 1:
        return [paths[0][-1]]
    first = next(place for place, parts in enumerate(zip_longest(*paths)) if len(set(parts)) > 1)
    rest = [path[first:] or path[-1:] for path in paths]
    while all(len(path) > 1 for path in rest) and len({path[-1] for path in rest}) == 1:
        rest = [path[:-1] for path in rest]
    return ["/".join(path) for path in rest]


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]
