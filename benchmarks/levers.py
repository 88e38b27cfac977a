"""What each lever does to the time and memory of a Pocket U-Net, and what `auto` picks, against plain computation.

    python benchmarks/levers.py [--patch 64] [--batch 2] [--rounds 3] [--output FILE.json]

Plain is eager computation on contiguous tensors in float32. Every combination of levers runs in a process of its own,
because memory that a process keeps cannot be given back; the processes take turns, one step or image each, so that all
of them meet the same load of the machine. Ratios are medians over rounds of plain time / own time in the same round:
above 1 is faster than plain. On a machine that others use too, the time of the processor says more than that of the
clock: both are given. Input is generated; torch and the torch-only parts of this package are all it needs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_pocket.inference import SlidingWindow
from lightning_pocket.layers import WidthSchedule
from lightning_pocket.losses import L2Dice
from lightning_pocket.networks import UNet
from lightning_pocket.speed import (
    Levers,
    Runner,
    WindowChooser,
    choose_for_training,
    folded,
    inference_candidates,
    training_candidates,
)
from lightning_pocket.speed.choice import synchronize

CLASSES = 3


@dataclass(frozen=True)
class Job:
    """One row of the table.

    Args:
        name: What it is called.
        kind: ``train`` or ``infer``.
        levers: Switches; of ``auto`` they are chosen in the process itself.
        auto: Whether they are chosen.
        checkpoint_levels: Levels that are computed again for the gradients.
        fused: Whether the optimizer's step is one kernel.
        window_batch: Windows at a time.
        size: Patch, batch and volume, in voxels.
        device: Where.
    """

    name: str
    kind: str
    levers: Levers = Levers()  # noqa: RUF009 (frozen)
    auto: bool = False
    checkpoint_levels: int = 0
    fused: bool = False
    window_batch: int = 1
    size: tuple[int, int, int] = (64, 2, 128)
    device: str = "cpu"


def training_jobs(compiled: bool) -> list[Job]:
    """Return the rows for a training step, plain first."""
    rows = [
        Job("plain", "train"),
        Job("auto", "train", auto=True),
        Job("channels_last", "train", Levers(channels_last=True)),
        Job("keep_memory", "train", Levers(keep_memory=True)),
        Job("channels_last + keep_memory", "train", Levers(channels_last=True, keep_memory=True)),
        Job("fused optimizer", "train", fused=True),
        Job("2 levels checkpointed", "train", checkpoint_levels=2),
        Job("bfloat16", "train", Levers(bfloat16=True)),
        Job("bfloat16 + both", "train", Levers(bfloat16=True, channels_last=True, keep_memory=True)),
    ]
    return [*rows, Job("compiled", "train", Levers(compiled=True))] if compiled else rows


def inference_jobs(compiled: bool) -> list[Job]:
    """Return the rows for a sliding window over a volume, plain first."""
    fast = Levers(folded=True, channels_last=True)
    rows = [
        Job("plain", "infer"),
        Job("auto", "infer", auto=True),
        Job("folded", "infer", Levers(folded=True)),
        Job("channels_last", "infer", Levers(channels_last=True)),
        Job("folded + channels_last", "infer", fast),
        Job("keep_memory", "infer", Levers(keep_memory=True)),
        Job("folded + keep_memory", "infer", Levers(folded=True, keep_memory=True)),
        Job("folded + channels_last + keep_memory", "infer", replace(fast, keep_memory=True)),
        Job("2 windows at a time", "infer", window_batch=2),
        Job("bfloat16", "infer", Levers(bfloat16=True)),
        Job("bfloat16 + folded + channels_last", "infer", replace(fast, bfloat16=True)),
    ]
    return [*rows, Job("compiled", "infer", Levers(compiled=True))] if compiled else rows


def make_network(job: Job) -> UNet:
    """Return the Pocket U-Net: 32 channels at every level, as many levels as the patch allows, up to 5 below it."""
    torch.manual_seed(0)
    depth = min(5, (job.size[0] // 4).bit_length() - 1)
    widths = WidthSchedule(base=32, doublings=0)
    return UNet(1, CLASSES, depth=depth, widths=widths, checkpoint_levels=job.checkpoint_levels).to(job.device)


def training_step(job: Job) -> tuple[Callable[[], list[float]], str]:
    """Return a step, which gives its loss and the size of its gradients, and the levers it is done with."""
    network, (patch, batch, _) = make_network(job), job.size
    image = torch.randn(batch, 1, patch, patch, patch, device=job.device)
    label = torch.randint(CLASSES, (batch, patch, patch, patch), device=job.device)
    loss = L2Dice()

    def compute(runner: Runner) -> Tensor:
        return loss(runner.outputs(image)[0], label)

    def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=1e-3, fused=job.fused)

    levers = job.levers
    if job.auto:
        candidates = training_candidates(torch.device(job.device))
        levers = choose_for_training(network, compute, make_optimizer, candidates).levers
    runner, optimizer = Runner(network, levers), make_optimizer(network.parameters())

    def step() -> list[float]:
        optimizer.zero_grad()
        value = compute(runner)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        size = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
        return [float(value.detach()), float(size)]

    return step, str(levers)


def inference_run(job: Job) -> tuple[Callable[[], list[float]], str]:
    """Return the prediction of a volume, which gives some of its logits, and the levers it is done with."""
    network, (patch, _, volume) = make_network(job).eval(), job.size
    image = torch.randn(1, 1, volume, volume, volume, device=job.device)
    window = SlidingWindow(window_batch=job.window_batch)

    def make(levers: Levers) -> Callable[[Tensor], Tensor]:
        return Runner(folded(network) if levers.folded else network, levers)

    # `auto` explores the windows of the first volume, which is not counted, like every first step.
    predict = (
        WindowChooser(make, inference_candidates(torch.device(job.device), Levers())) if job.auto else make(job.levers)
    )

    def run() -> list[float]:
        with torch.inference_mode():
            logits = window(predict, image, [patch] * 3)
        return logits[..., ::8, ::8, ::8].flatten().tolist()

    if not isinstance(predict, WindowChooser):
        return run, str(job.levers)
    while predict.choice is None:
        run()
    return run, str(predict.choice.levers)


def work(pipe: Connection, job: Job) -> None:
    """Do steps when told to, in a process of its own; send the seconds, at the end what else is known."""
    device = torch.device(job.device)
    before = peak_mib(device)
    step, levers = training_step(job) if job.kind == "train" else inference_run(job)
    first = step()
    pipe.send("ready")
    while pipe.recv():
        synchronize(device)
        started, busy = time.perf_counter(), time.process_time()
        step()
        synchronize(device)
        pipe.send((time.perf_counter() - started, time.process_time() - busy))
    pipe.send({"levers": levers, "values": first, "peak_mib": round(peak_mib(device) - before)})


def peak_mib(device: torch.device) -> float:
    """Return the peak memory of this process so far: of tensors on a GPU, resident memory elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(jobs: Sequence[Job], rounds: int) -> list[dict[str, Any]]:
    """Run all jobs in turns and return a row for each."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for job in jobs:  # one after the other: what they choose must not be disturbed by their neighbours
        pipes[job.name], end = context.Pipe()
        context.Process(target=work, args=(end, job), daemon=True).start()
        pipes[job.name].recv()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pipes}
    for number in range(rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds = pipe.recv()
            if number:
                times[name].append(seconds)
    rows = []
    for name, pipe in pipes.items():
        pipe.send(False)
        found: dict[str, Any] = {"name": name}
        for kind, prefix in enumerate(("", "cpu_")):
            plain, own = ([step[kind] for step in times[which]] for which in ("plain", name))
            found |= {
                f"{prefix}ms": [round(1000 * seconds, 1) for seconds in own],
                f"{prefix}median_ms": round(1000 * statistics.median(own), 1),
                f"{prefix}ratio": round(statistics.median(a / b for a, b in zip(plain, own, strict=True)), 3),
            }
        rows.append(found | pipe.recv())
    for row in rows:
        pairs = zip(row["values"], rows[0]["values"], strict=True)
        row["differs_by"] = max(abs(own - plain) / max(map(abs, rows[0]["values"])) for own, plain in pairs)
    return [{key: value for key, value in row.items() if key != "values"} for row in rows]


def show(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table."""
    print(
        f"\n{title}\n  {'':40} {'ms':>9} {'ratio':>6} {'CPU ms':>9} {'ratio':>6} {'peak MiB':>9} {'differs':>8}  levers"
    )
    for row in rows:
        print(
            f"  {row['name']:40} {row['median_ms']:9.1f} {row['ratio']:6.2f} {row['cpu_median_ms']:9.1f} "
            f"{row['cpu_ratio']:6.2f} {row['peak_mib']:9,} {row['differs_by']:8.0e}  {row['levers']}",
            flush=True,
        )


def processor() -> str:
    """Return the name of the processor or GPU."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def main() -> None:
    """Parse the command line, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--volume", type=int, default=128, help="side of the volume for inference")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["training", "inference"])
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = (options.patch, options.batch, options.volume)
    content: dict[str, Any] = {
        "device": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "patch": options.patch,
        "batch": options.batch,
        "volume": options.volume,
        "rounds": options.rounds,
    }
    for kind, title, jobs in (
        ("training", "Training step", training_jobs(options.compile)),
        ("inference", "Sliding window over a volume", inference_jobs(options.compile)),
    ):
        if options.only not in (None, kind):
            continue
        content[kind] = compare([replace(job, size=size, device=device) for job in jobs], options.rounds)
        show(f"{title}, {content['device']}, {content['threads']} threads", content[kind])
    if options.output:
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
