"""Draw the loss around the weights of trained networks, along directions with the norms of their filters."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Literal

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.collect import read_runs


def landscape(
    runs: list[str],
    output: str | None = None,
    dims: Literal[1, 2] = 2,
    steps: int = 21,
    extent: float = 1.0,
    batches: int = 8,
    seed: int = 0,
    checkpoint: Literal["last", "best"] = "last",
) -> None:
    """Compute and draw the training loss around the weights of runs, as in Li et al. (NeurIPS 2018).

    Written are RUN/landscape.csv, a chart of each, and a page, index.html. What was computed is kept; the same command
    continues.

    Args:
        runs: Run folders, such as a plain and an expanded network of the same data.
        output: Folder of the results, always needed.
        dims: 1 for a line, 2 for a plane.
        steps: Points along each axis, an odd number.
        extent: How far to go, in lengths of the weights.
        batches: Training batches that the loss is the mean of.
        seed: Of the random directions.
        checkpoint: Weights to look at, those of the last or of the best epoch.

    Raises:
        PocketError: If a folder holds no run, or its data changed.
    """
    if not output:
        raise PocketError("output: is missing; name a folder for the results, such as --output landscape.")
    if Path(output).is_file():
        raise PocketError(f"--output {output}: is a file. Name a folder.")
    found = read_runs([Path(run) for run in runs])
    from lightning_pocket.reports.landscape_page import write_landscapes
    from lightning_pocket.studies.landscape import Grid, Landscape  # torch only now: options may be wrong

    grid = Grid(dims, steps, extent, batches, seed)
    results = {}
    for run in found:
        folder = Path(output) / run.name.replace("/", "_")
        surface = Landscape(run.path, folder, grid, checkpoint)
        results[run.name] = surface.compute(partial(_say, run.name))
    given = {"dims": dims, "steps": steps, "extent": extent, "batches": batches, "seed": seed, "checkpoint": checkpoint}
    options = [f"--{key}={value}" for key, value in given.items()]
    command = shlex.join(["pocket", "landscape", *runs, f"--output={output}", *options])
    page = write_landscapes(Path(output), results, command)
    print(f"page: {page}")


def _say(name: str, text: str) -> None:
    print(f"{name}, {text}", flush=True)
