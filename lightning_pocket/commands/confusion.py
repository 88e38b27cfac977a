"""Draw how much the gradients of different batches agree along trainings."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.confusion_page import read_confusion, write_confusion


def confusion(runs: list[str], output: str | None = None) -> None:
    """Compare runs that were trained with --config gradient_confusion.

    Written are confusion.csv, density.csv, a chart of each in each space, and a page, index.html.

    Args:
        runs: Run folders; those called NAME/seed_0, NAME/seed_1 and so on are pooled.
        output: Folder of the results, always needed.

    Raises:
        PocketError: If a run has no cosines.
    """
    if not output:
        raise PocketError("output: is missing; name a folder for the results, such as --output confusion.")
    if Path(output).is_file():
        raise PocketError(f"--output {output}: is a file. Name a folder.")
    results = read_confusion([Path(run) for run in runs])
    page = write_confusion(Path(output), results, shlex.join(["pocket", "confusion", *runs, f"--output={output}"]))
    for result in results:
        for space in result.epochs:
            print(f"{result.name}: smallest cosine at the end {result.least(space)[-1][1]:+.3f} ({space})")
    print(f"page: {page}")
