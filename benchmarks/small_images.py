"""Images of 32 x 32 pixels per second, padded, cropped and flipped: whole batches against TorchIO, image by image.

    python benchmarks/small_images.py [--rounds 5] [--output FILE.json]

A cache of 2,000 random images is made. All ways read it in the training process on one thread, in turn. Only ratios
within one run mean anything.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torchio as tio

from lightning_pocket.commands.prepare import prepare
from lightning_pocket.data import ImageDataModule
from lightning_pocket.data.images2d.views import CropFlip
from lightning_pocket.storage import write_json

IMAGES, SIZE, BATCH = 2000, 32, 128


def write_images(file: Path) -> None:
    """Write random colour images of two classes as a MedMNIST file."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    labels = (np.arange(IMAGES) % 2).astype(np.uint8)[:, None]
    np.savez(file, train_images=pixels, train_labels=labels)


def per_second(cache: Path, batches: int, **settings: Any) -> float:
    """Return images per second of the loader, its first batch left out."""
    data = ImageDataModule(str(cache), batch_size=BATCH, num_workers=0, **settings)
    loader = iter(data.train_dataloader())
    next(loader)
    began = time.perf_counter()
    count = sum(len(next(loader)["image"]) for _ in range(batches))
    return count / (time.perf_counter() - began)


def measure(rounds: int) -> dict[str, Any]:
    """Return images per second of each way, the median over rounds in which the ways take turns."""
    one_by_one = [
        tio.RandomFlip(axes=[2], flip_probability=0.5),
        tio.RandomAffine(scales=[1] * 6, degrees=[0] * 6, translation=[0, 0, -4, 4, -4, 4]),
    ]
    ways: dict[str, tuple[int, dict[str, Any]]] = {
        "read": (10, {}),
        "read, crop and flip": (10, {"crop_flip": CropFlip()}),
        "read, shift and flip by TorchIO": (1, {"augmentation": one_by_one}),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        file, cache = Path(folder) / "images.npz", Path(folder) / "cache"
        write_images(file)
        prepare(str(file), output=str(cache), color="rgb", normalization="unit", workers=1)
        for _ in range(rounds):
            for name, (batches, settings) in ways.items():
                found[name].append(per_second(cache, batches, **settings))
    rates = {name: round(median(values)) for name, values in found.items()}
    ratio = median(
        a / b for a, b in zip(found["read, crop and flip"], found["read, shift and flip by TorchIO"], strict=True)
    )
    return {"images_per_second": rates, "crop_flip_over_torchio": round(ratio, 1)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(options.rounds) | {"device": _device(), "torch": torch.__version__}
    for name, rate in result["images_per_second"].items():
        print(f"{name:35s} {rate:8,d} images per second")
    print(f"whole batches serve {result['crop_flip_over_torchio']} times as many")
    if options.output:
        write_json(options.output, result)


def _device() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.processor()}, 1 thread, shared"


if __name__ == "__main__":
    main()
