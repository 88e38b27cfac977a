"""See everything at work: generate phantoms, train a full and a pocket network, test and compare them."""

from __future__ import annotations

import shlex
import subprocess
import time
from pathlib import Path

from lightning_pocket.commands.compare import compare
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.phantoms import best_intensity_dice
from lightning_pocket.errors import PocketError
from lightning_pocket.launch import Run, program


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
    phantoms, cache, plan = folder / "phantoms", folder / "cache", folder / "plan.yaml"
    _run(["synthesize", str(phantoms), f"--cases={cases}", f"--seed={seed}"])
    _run(["check", str(phantoms)])
    _run(["prepare", str(phantoms), f"--output={cache}"])
    _run(["plan", str(cache), f"--output={plan}"])
    runs = []
    for preset in ("full", "pocket"):
        run_dir = str(folder / preset)
        configs = ("segment_volumes", str(plan), "demo", preset)
        _run(Run(configs, {"seed_everything": seed, "run_dir": run_dir}).argv("fit"))
        _run(["test", f"--run_dir={run_dir}"])
        runs.append(run_dir)
    print("\nThe same data, schedule and channels at full resolution; only the doubling of channels differs:\n")
    compare(runs)
    print(f"\nBest labelling by the intensity of each voxel alone: Dice {_intensity_only(cache):.4f}")
    print(f"Everything is in {folder} ({time.monotonic() - started:.0f} s).")


def _run(arguments: list[str]) -> None:
    print(f"\n$ pocket {shlex.join(arguments)}", flush=True)
    result = subprocess.run([*program(), *arguments], check=False)
    if result.returncode:
        raise PocketError(f"`pocket {arguments[0]}` failed with status {result.returncode}; its message is above.")


def _intensity_only(folder: Path) -> float:
    cache = Cache.open(folder)
    cases = [cache.case(subject) for subject in cache.subjects]
    return best_intensity_dice(
        [case.image()[0] for case in cases], [case.label() for case in cases], len(cache.classes)
    )
