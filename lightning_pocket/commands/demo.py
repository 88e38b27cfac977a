"""See everything at work: generate phantoms, train a full and a pocket network, test and compare them on a page."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from lightning_pocket.commands.compare import compare
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.phantoms import best_intensity_dice
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Run, run_tied
from lightning_pocket.reports.comparison_page import write_comparison

_NOTE = "The same data, schedule and channels at full resolution; only the doubling of channels differs"


def demo(output: str = "demo", cases: int = 25, seed: int = 0) -> None:
    """Run the main job on generated data: under five minutes on two CPU cores.

    Every step is an ordinary command, printed before it runs. A demo that was interrupted continues.

    Args:
        output: Folder for everything that the demo makes.
        cases: Phantoms to generate.
        seed: Seed of the phantoms and of the trainings.

    Raises:
        PocketError: If a step fails.
    """
    started = time.monotonic()
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PocketError(f"--output {output}: cannot be made ({error.strerror}). Name another folder.") from error
    phantoms, cache, plan = folder / "phantoms", folder / "cache", folder / "plan.yaml"
    commands = [
        ["synthesize", str(phantoms), f"--cases={cases}", f"--seed={seed}"],
        ["check", str(phantoms)],
        ["prepare", str(phantoms), f"--output={cache}"],
        ["plan", str(cache), f"--output={plan}"],
    ]
    runs = [folder / preset for preset in ("full", "pocket")]
    for run in runs:
        configs = ("segment_volumes", str(plan), "demo", run.name)
        commands.append(Run(configs, {"seed_everything": seed, "run_dir": str(run)}).argv("fit"))
        commands.append(["test", f"--run_dir={run}"])
    for arguments in commands:
        _run(arguments)
    print(f"\n{_NOTE}:\n")
    compare([str(run) for run in runs])
    by_intensity = f"Best labelling by the intensity of each voxel alone: Dice {_intensity_only(cache):.4f}"
    print(f"\n{by_intensity}")
    page = folder / "index.html"
    title = "A full and a pocket network on generated phantoms"
    write_comparison(page, runs, title, [f"{_NOTE}.", f"{by_intensity}."], [_shown(command) for command in commands])
    print(f"Everything is in {folder} ({time.monotonic() - started:.0f} s).")
    print(f"page: {page}")


def _shown(arguments: list[str]) -> str:
    return shlex.join(["pocket", *arguments])


def _run(arguments: list[str]) -> None:
    print(f"\n$ {_shown(arguments)}", flush=True)
    status = run_tied(arguments)
    if status:
        raise PocketError(f"`pocket {arguments[0]}` failed with status {status}; its message is above.")


def _intensity_only(folder: Path) -> float:
    cache = Cache.open(folder)
    cases = [cache.case(subject) for subject in cache.subjects]
    return best_intensity_dice(
        [case.image()[0] for case in cases], [case.label() for case in cases], len(cache.classes)
    )
