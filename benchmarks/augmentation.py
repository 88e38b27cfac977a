"""Augmentation by TorchIO in the loader against augmentation on the device, interleaved in one run.

    python benchmarks/augmentation.py [--device cuda] [--patch 128] [--workers 0 4] [--output FILE.json]

Two tables. The first has patches per second from the memory-mapped cache to the end of augmentation, by both ways, on
generated cases of BraTS size; it needs TorchIO. The second has what each transform costs on the device alone, applied
to every sample; it needs torch and nothing else. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from lightning_pocket.data.on_device.apply import augment
from lightning_pocket.data.on_device.steps import Affine, BiasField, Blur, Elastic, Flip, Gamma, Noise, Recipe, Warp

#: A case of the BraTS data sets.
CASE = (155, 240, 240)
CHANNELS = 4
MM = (1.0, 1.0, 1.0)


def device_name(device: torch.device) -> str:
    """Return what the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor()}, {torch.get_num_threads()} threads"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fixed_steps() -> dict[str, list[Any]]:
    """Return one recipe for each transform, as the presets draw it, and for whole lists."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-7.5, 7.5, (7, 7, 7, 3)).astype(np.float32)
    affine, elastic = Affine((1.1, 0.9, 1.05), (10.0, -5.0, 8.0), (3.0, -2.0, 4.0), MM), Elastic(points, MM)
    alone: dict[str, list[Any]] = {
        "flip": [Flip((1,))],
        "noise": [Noise(0.0, 0.03, 7)],
        "blur": [Blur((0.5, 0.7, 0.4))],
        "gamma": [Gamma((0.9, 1.1, 1.0, 1.2))],
        "bias field": [BiasField(tuple(rng.uniform(-0.3, 0.3, 20).tolist()), 3)],
        "affine": [Warp((affine,))],
        "elastic": [Warp((elastic,))],
        "affine, elastic": [Warp((affine, elastic))],
    }
    paper = [*alone["flip"], *alone["noise"], *alone["blur"]]
    return alone | {"paper's three": paper, "all": [*alone["affine, elastic"], *paper, *alone["gamma"]]}


def time_device(device: torch.device, patch: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Return the milliseconds per batch of each transform, applied to every sample."""
    image = torch.rand(batch, CHANNELS, patch, patch, patch, device=device)
    label = torch.randint(4, (batch, patch, patch, patch), device=device, dtype=torch.uint8)
    recipes = {name: [Recipe(steps)] * batch for name, steps in fixed_steps().items()}
    taken: dict[str, list[float]] = {name: [] for name in recipes}
    for _ in range(rounds + 1):
        for name, recipe in recipes.items():
            given = image.clone(), label.clone()
            synchronize(device)
            start = time.perf_counter()
            augment(*given, recipe)
            synchronize(device)
            taken[name].append(1000 * (time.perf_counter() - start))
    return [{"transform": name, "ms_per_batch": median(times[1:])} for name, times in taken.items()]


def augmentations() -> dict[str, Callable[[], list[Any]]]:
    """Return how to make the transforms of ``configs/data/volumes.yaml``, of the strong preset, and elastic ones."""
    import torchio as tio

    from lightning_pocket.data.augment import RandomAxisFlip, RandomVoxelBlur

    def intensity() -> list[Any]:
        return [tio.RandomNoise(std=(0.001, 0.05), p=0.15), RandomVoxelBlur(std=(0.25, 0.75), p=0.15)]

    def affine() -> Any:
        return tio.RandomAffine(scales=0.15, degrees=15, translation=5, p=0.5)

    def strong() -> list[Any]:
        more = [tio.RandomBiasField(coefficients=0.3, p=0.15), tio.RandomGamma(log_gamma=0.2, p=0.15)]
        return [RandomAxisFlip(p=0.5), affine(), *intensity(), *more]

    return {
        "paper": lambda: [RandomAxisFlip(p=0.15), *intensity()],
        "strong": strong,
        "affine, elastic": lambda: [affine(), tio.RandomElasticDeformation(p=0.5)],
    }


def write_case(folder: Path, seed: int) -> Any:
    """Write a cached case of noise with a labelled box."""
    from lightning_pocket.data.cache import CachedCase

    folder.mkdir()
    rng = np.random.default_rng(seed)
    np.save(folder / "image.npy", rng.normal(size=(CHANNELS, *CASE)).astype(np.float32))
    label = np.zeros(CASE, np.uint8)
    label[50:90, 80:150, 80:150] = 1
    np.save(folder / "label.npy", label)
    voxels = np.argwhere(label)[::97]
    np.save(folder / "foreground.npy", np.concatenate([np.ones((len(voxels), 1), int), voxels], 1).astype(np.int32))
    return CachedCase(f"case_{seed}", folder, CASE, list(MM), np.eye(4).tolist(), [0, 0], {})


def patches_per_s(
    cases: list[Any], transforms: list[Any], on: str, workers: int, device: torch.device, options: argparse.Namespace
) -> float:
    """Return how many augmented patches a second arrive on the device; the first batch does not count."""
    import torchio as tio
    from torch.utils.data import DataLoader

    from lightning_pocket.data.on_device.draw import RecipeDrawer
    from lightning_pocket.data.patches import KeySampler, PatchDataset, as_is
    from lightning_pocket.data.sampling import ForegroundSampler

    compose = tio.Compose(transforms, copy=False) if on == "loader" else None
    drawer = RecipeDrawer(transforms) if on == "device" else None
    dataset = PatchDataset(cases, [options.patch] * 3, ForegroundSampler(), compose, drawer=drawer)
    sampler = KeySampler((options.batches + 1) * options.batch)
    pinned = device.type == "cuda"
    loader: Any = DataLoader(
        dataset, options.batch, sampler=sampler, num_workers=workers, collate_fn=as_is, pin_memory=pinned
    )
    start = 0.0
    for number, batch in enumerate(loader):
        image, label = batch["image"].to(device, non_blocking=True), batch["label"].to(device, non_blocking=True)
        augment(image, label, batch.get("recipes", []))
        synchronize(device)
        if number == 0:
            start = time.perf_counter()
    return float(options.batches * options.batch / (time.perf_counter() - start))


def compare(device: torch.device, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return patches per second of both ways and their ratio, for each augmentation and number of workers."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [write_case(Path(folder) / str(seed), seed) for seed in range(2)]
        for name, make in augmentations().items():
            for workers in options.workers:
                measure = partial(patches_per_s, cases, workers=workers, device=device, options=options)
                found: dict[str, list[float]] = {"loader": [], "device": []}
                for _ in range(options.rounds):
                    for on, speeds in found.items():
                        speeds.append(measure(make(), on))
                row: dict[str, Any] = {"augmentation": name, "workers": workers}
                row |= {f"{on}_patches_per_s": median(speeds) for on, speeds in found.items()}
                rows.append(row | {"ratio": row["device_patches_per_s"] / row["loader_patches_per_s"]})
    return rows


def main() -> None:
    """Run the benchmark, print it, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)

    print(device_name(device))
    rows = []
    if importlib.util.find_spec("torchio") is None:
        print("TorchIO is not installed: the loader is not measured.")
    else:
        rows = compare(device, options)
        print(f"{'augmentation':<17}{'workers':>7}{'loader/s':>10}{'device/s':>10}{'ratio':>7}")
        for row in rows:
            speeds = row["loader_patches_per_s"], row["device_patches_per_s"], row["ratio"]
            print(f"{row['augmentation']:<17}{row['workers']:>7}" + "{:>10.2f}{:>10.2f}{:>7.2f}".format(*speeds))
    alone = time_device(device, options.patch, options.batch, options.rounds)
    print(f"{'on the device alone':<24}{'ms per batch':>13}")
    for row in alone:
        print(f"{row['transform']:<24}{row['ms_per_batch']:>13.2f}")
    if options.output:
        settings = {name: getattr(options, name) for name in ("patch", "batch", "batches", "rounds")}
        content = {
            "device": device_name(device),
            "data": f"2 cases of {CHANNELS} x {' x '.join(map(str, CASE))}, float32",
            "torch": torch.__version__,
            "settings": settings,
            "rows": rows,
            "alone": alone,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
