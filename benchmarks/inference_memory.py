"""Peak memory and time of `pocket infer` on volumes of growing length.

    python benchmarks/inference_memory.py [--planes 100 400] [--overlap 0.25] [--output FILE.json]

A pocket U-Net (16 channels, patches of 128^3) is trained for a moment on phantoms, then volumes of PLANES x 512 x 512
voxels are segmented, each by a process of its own: once with the voxel size of the training, and once with another, so
that image and labels are resampled. Peak memory is that of the whole process, Python and libraries included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from lightning_pocket.callbacks.run_manifest import hardware
from lightning_pocket.launch import Option, Run, program

SPACING = (1.0, 0.8, 0.8)  # D, H, W, in mm
FINER = (0.9, 0.75, 0.75)


def train(folder: Path) -> Path:
    """Train a network for a few steps and return its run folder."""
    subprocess.run([*program(), "synthesize", str(folder / "raw"), "--cases=6"], check=True)
    spacing = f"--spacing={list(SPACING)}"
    cache = folder / "cache"
    subprocess.run([*program(), "prepare", str(folder / "raw"), f"--output={cache}", spacing], check=True)
    options: dict[str, Option] = {
        "run_dir": str(folder / "run"),
        "data.init_args.cache": str(cache),
        "data.init_args.patch_size": [128, 128, 128],
        "data.init_args.batch_size": 1,
        "data.init_args.patches_per_epoch": 2,
        "model.init_args.network.init_args.widths.base": 16,
        "trainer.max_epochs": 1,
        "trainer.accelerator": "cpu",
    }
    subprocess.run([*program(), *Run(("segment_volumes", "pocket", "validate_patches"), options).argv()], check=True)
    return folder / "run"


def measure(run: Path, planes: int, spacing: tuple[float, ...], overlap: float) -> dict[str, Any]:
    """Segment one volume and return peak memory (MiB) and time (s)."""
    image_file = run.parent / f"scan_{planes}_{spacing[0]}.nii.gz"
    rng = np.random.default_rng(0)
    voxels = np.kron(rng.normal(0, 300, (planes // 4, 64, 64)), np.ones((4, 8, 8))).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(image_file))
    output = run.parent / f"out_{image_file.name}"
    command = [*program(), "infer", str(run), str(image_file), f"--output={output}", f"--overlap={overlap}"]
    started = time.perf_counter()
    # The peak of all children so far is that of the largest: run the smallest first, in processes of their own.
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True)
    peak = int(result.stdout.split()[-1]) / 1024
    seconds = time.perf_counter() - started
    print(f"{planes} x 512 x 512, spacing {spacing}: {peak:,.0f} MiB, {seconds:.0f} s", flush=True)
    return {
        "shape": list(voxels.shape),
        "spacing": list(spacing),
        "resampled": spacing != SPACING,
        "peak_rss_mib": round(peak),
        "seconds": round(seconds, 1),
        "bytes_per_voxel": round(peak * 2**20 / voxels.size, 1),
    }


def main() -> None:
    """Parse the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--overlap", type=float, default=0.25)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = train(Path(folder))
        jobs = [(planes, spacing) for planes in options.planes for spacing in (SPACING, FINER)]
        results = [measure(run, planes, spacing, options.overlap) for planes, spacing in jobs]
    content = {"hardware": hardware(), "overlap": options.overlap, "classes": 4, "results": results}
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
