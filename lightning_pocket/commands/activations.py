"""Show how strongly each feature before the head responds to the test cases, of one run or several."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

from lightning_pocket.errors import PocketError
from lightning_pocket.reports.activation_page import write_activations
from lightning_pocket.reports.collect import read_runs
from lightning_pocket.reports.tables import print_table


def activations(runs: list[str], output: str | None = None, checkpoint: Literal["last", "best"] = "last") -> None:
    """Compare the features that the heads of trained networks are given, as in figure 4 of PocketNet.

    The features of each test case are averaged over its voxels, channel by channel, then over the cases, and sorted.
    Written are activations.csv, activations.svg and a page, index.html.

    Args:
        runs: Run folders, such as a full and a pocket network of the same data.
        output: Folder of the results, always needed.
        checkpoint: Weights to use, those of the last or of the best epoch.

    Raises:
        PocketError: If a folder holds no run, or its data changed.
    """
    if not output:
        raise PocketError("output: is missing; name a folder for the results, such as --output activations.")
    if Path(output).is_file():
        raise PocketError(f"--output {output}: is a file. Name a folder.")
    found = read_runs([Path(run) for run in runs])
    from lightning_pocket.studies.activations import measure_activations  # torch only now: options may be wrong

    results = []
    for run in found:
        print(f"{run.name}: features of the test cases ...", flush=True)
        results.append(measure_activations(run.path, run.name, checkpoint))
    command = shlex.join(["pocket", "activations", *runs, f"--output={output}", f"--checkpoint={checkpoint}"])
    page = write_activations(Path(output), results, command)
    print_table(
        ["run", "cases", "channels", "carry 90%", "silent"],
        [[r.name, len(r.subjects), len(r.order), r.carriers(), r.silent] for r in results],
    )
    print(f"page: {page}")
