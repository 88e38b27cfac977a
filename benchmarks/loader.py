"""Patches per second of the two patch sources, reading the same cache, interleaved in one run.

    python benchmarks/loader.py CACHE [--patch 128] [--batches 16] [--rounds 3] [--output FILE.json]

CACHE is what ``pocket prepare`` wrote. The memory-mapped source and TorchIO's Queue (8 samples per volume, length 32,
each with 0 and 2 workers) take turns. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchio as tio
from torch.utils.data import DataLoader

from lightning_pocket.callbacks.run_manifest import hardware
from lightning_pocket.data.augment import RandomAxisFlip, RandomVoxelBlur
from lightning_pocket.data.cache import Cache
from lightning_pocket.data.patches import Item, KeySampler, PatchDataset, as_is
from lightning_pocket.data.queue import QueuePatches, QueueSampler, QueueSettings
from lightning_pocket.data.sampling import ForegroundSampler

BATCH = 2


def paper_augmentation() -> tio.Transform:
    """Return PocketNet's augmentation, as in ``configs/data/volumes.yaml``."""
    noise = tio.RandomNoise(std=(0.001, 0.05), p=0.15)
    return tio.Compose([RandomAxisFlip(p=0.15), noise, RandomVoxelBlur(std=(0.25, 0.75), p=0.15)], copy=False)


def loader(
    source: str, cache: Cache, patch: int, workers: int, transform: tio.Transform | None, length: int
) -> DataLoader[Item]:
    """Make a loader that serves ``length`` patches."""
    cases = [cache.case(subject) for subject in cache.subjects]
    size = [patch] * 3
    if source == "memory_map":
        dataset = PatchDataset(cases, size, ForegroundSampler(), transform)
        return DataLoader(dataset, BATCH, sampler=KeySampler(length), num_workers=workers, collate_fn=as_is)
    settings = QueueSettings(length=32, samples_per_volume=8, num_workers=workers)
    # A queue serves each case once per epoch: repeat the cases until an epoch is long enough to be measured.
    repeated = list(itertools.islice(itertools.cycle(cases), -(-length // settings.samples_per_volume)))
    queue = QueuePatches(repeated, size, ForegroundSampler(), transform, settings)
    return DataLoader(queue, BATCH, sampler=QueueSampler(queue))


def measure(batches: Iterator[Any], start: float) -> dict[str, float]:
    """Consume all batches and return their timing."""
    gaps, patches, last = [], 0, start
    for batch in batches:
        now = time.perf_counter()
        gaps.append(now - last)
        patches += len(batch["subject"])
        last = now
    total = last - start
    return {
        "patches_per_s": patches / total,
        "first_batch_s": gaps[0],
        "longest_stall_s": max(gaps[1:], default=0.0),
    }


def main() -> None:
    """Run the benchmark, print it, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batches", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    cache = Cache.open(options.cache)
    variants = [
        (augmented, source, workers)
        for augmented in (False, True)
        for source in ("memory_map", "queue")
        for workers in (0, 2)
    ]
    runs: dict[tuple[bool, str, int], list[dict[str, float]]] = {variant: [] for variant in variants}
    for _ in range(options.rounds):
        for variant in variants:
            augmented, source, workers = variant
            transform = paper_augmentation() if augmented else None
            start = time.perf_counter()
            batches = loader(source, cache, options.patch, workers, transform, options.batches * BATCH)
            runs[variant].append(measure(iter(batches), start))
    rows: list[dict[str, Any]] = [
        {
            "augmentation": "paper" if augmented else "none",
            "source": source,
            "workers": workers,
            "patches_per_s": median(run["patches_per_s"] for run in results),
            "first_batch_s": max(run["first_batch_s"] for run in results),
            "longest_stall_s": max(run["longest_stall_s"] for run in results),
        }
        for (augmented, source, workers), results in runs.items()
    ]
    print(f"{'augmentation':<13}{'source':<12}{'workers':>7}{'patches/s':>11}{'first s':>9}{'stall s':>9}")
    for row in rows:
        print(
            f"{row['augmentation']:<13}{row['source']:<12}{row['workers']:>7}{row['patches_per_s']:>11.2f}"
            f"{row['first_batch_s']:>9.2f}{row['longest_stall_s']:>9.2f}"
        )
    ratios = {}
    for augmentation in ("none", "paper"):
        best = {
            source: max(r["patches_per_s"] for r in rows if r["source"] == source and r["augmentation"] == augmentation)
            for source in ("memory_map", "queue")
        }
        ratios[augmentation] = best["memory_map"] / best["queue"]
        print(f"memory map / queue, augmentation {augmentation}: {ratios[augmentation]:.2f}")
    if options.output:
        settings = {"patch": options.patch, "batch": BATCH, "batches": options.batches, "rounds": options.rounds}
        content = {
            "device": hardware(),
            "torch": torch.__version__,
            "settings": settings,
            "rows": rows,
            "ratios": ratios,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
