"""Predicted against measured peak memory of training: does the prediction hold?

    python benchmarks/gpu_memory.py [--device cuda|cpu] [--networks unet hrnet] [--sizes 64] [--output FILE.json]

U-Net, ResNet and HRNet, full and pocket, are trained for a few steps on random images: batch 2, one channel, two
classes, Adam. On a GPU also with 128^3 voxels, in bfloat16, and with the channels last. On a CPU each measurement is a
process of its own, and its peak is that of the resident memory above what the libraries take. Torch is all that is
needed.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, PReLU, ResidualBlock, WidthSchedule
from lightning_pocket.losses import L2Dice
from lightning_pocket.networks import HRNet, UNet
from lightning_pocket.profiling.measure import measure_training
from lightning_pocket.profiling.memory import Device, predict_training
from lightning_pocket.storage import write_json

CLASSES = 2
BATCH = 2
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    network: str
    variant: str
    size: int
    precision: str = "32-true"
    channels_last: bool = False


def make_network(name: str, variant: str, channels_last: bool) -> nn.Module:
    """Return a network of PocketNet, Table I, for one channel and two classes."""
    widths = WidthSchedule(base=32, doublings="all" if variant == "full" else 0)
    prelu = LayerFactory(activation=PReLU())
    network: nn.Module
    if name == "unet":
        network = UNet(1, CLASSES, depth=5, widths=widths)
    elif name == "resnet":
        network = UNet(1, CLASSES, depth=5, widths=widths, layers=prelu, block=ResidualBlock())
    else:
        network = HRNet(1, CLASSES, depth=3, widths=widths, layers=prelu)
    if channels_last:
        network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return network


def list_cases(names: list[str], sizes: list[int], device: Device) -> Iterator[Case]:
    """Yield what to measure; more on a GPU."""
    for size in sizes:
        for name in names:
            for variant in ("full", "pocket"):
                yield Case(name, variant, size)
    if device == "cuda":
        for name in names:
            for variant in ("full", "pocket"):
                yield Case(name, variant, sizes[0], "bf16-mixed")
                yield Case(name, variant, sizes[0], "bf16-mixed", channels_last=True)


def run(case: Case, device: Device, steps: int) -> dict[str, Any]:
    """Predict and measure one case; ``problem`` says why a measurement failed."""
    made = partial(make_network, case.network, case.variant, case.channels_last)
    shape = (BATCH, 1, case.size, case.size, case.size)
    began = time.perf_counter()
    predicted = predict_training(made, L2Dice(), torch.optim.Adam, shape, CLASSES, case.precision, device)
    seconds = time.perf_counter() - began
    causes = {name: round(value, 1) for name, value in asdict(predicted).items() if name != "timeline"}
    row = asdict(case) | {"predicted": causes, "prediction_s": round(seconds, 1)}
    try:
        measured = measure_training(
            made, L2Dice(), torch.optim.Adam, shape, CLASSES, case.precision, device, steps=steps
        )
    except (PocketError, torch.OutOfMemoryError) as error:
        return row | {"problem": str(error).splitlines()[0]}
    kept = asdict(measured)
    if device == "cpu":  # this is about memory; a CPU's times are those of whatever else runs there
        kept = {"peak_mib": measured.peak_mib}
    row["measured"] = {name: round(value, 1) for name, value in kept.items() if value is not None}
    row["ratio"] = round(predicted.peak_mib / measured.peak_mib, 3)
    return row


def show(row: dict[str, Any]) -> None:
    """Print one line of the table."""
    name = f"{row['variant']} {row['network']} {row['size']}^3 {row['precision']}"
    name += " channels last" if row["channels_last"] else ""
    if "problem" in row:
        print(f"{name:<42}{row['predicted']['peak_mib']:>10,.0f}  {row['problem']}", flush=True)
        return
    measured = row["measured"]
    line = f"{name:<42}{row['predicted']['peak_mib']:>10,.0f}{measured['peak_mib']:>10,.0f}{row['ratio']:>8.3f}"
    more = "".join(f"{measured[key]:>10,.0f}" for key in ("reserved_mib", "step_ms") if key in measured)
    print(line + more, flush=True)


def describe(device: Device) -> dict[str, Any]:
    """Return what it was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("vendor_id", "model name"))]
    cpu = " ".join(dict.fromkeys(names)) or platform.processor() or platform.machine()
    found = {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found["cudnn"] = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return found


def main() -> None:
    """Parse the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", nargs="+", choices=("unet", "resnet", "hrnet"))
    parser.add_argument("--sizes", type=int, nargs="+", help="voxels along each axis")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device: Device = options.device
    sizes = options.sizes or ([64, 128] if device == "cuda" else [64])
    more = f"{'reserved':>10}{'step ms':>10}" if device == "cuda" else ""
    print(f"{'MiB':<42}{'predicted':>10}{'measured':>10}{'ratio':>8}{more}")
    rows = []
    for case in list_cases(options.networks or ["unet", "resnet", "hrnet"], sizes, device):
        rows.append(run(case, device, options.steps))
        show(rows[-1])
    output = options.output or RESULTS / f"{'gpu' if device == 'cuda' else 'cpu'}_memory.json"
    write_json(output, {"hardware": describe(device), "batch": BATCH, "optimizer": "Adam", "results": rows})


if __name__ == "__main__":
    main()
