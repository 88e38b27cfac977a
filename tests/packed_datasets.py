"""Writers of data sets that hold many images in one file, as their authors publish them."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np


def write_idx(file: Path, values: np.ndarray) -> Path:
    """Write uint8 values in the format of MNIST; with the suffix .gz compressed."""
    content = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


def write_mnist(root: Path, counts: dict[str, int], suffix: str = "") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Write parts (train, t10k) of 9 x 7 images whose classes take turns, and return their arrays."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in counts.items():
        images = rng.integers(0, 256, (count, 9, 7), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        write_idx(root / f"{part}-images-idx3-ubyte{suffix}", images)
        write_idx(root / f"{part}-labels-idx1-ubyte{suffix}", labels)
        arrays[part] = (images, labels)
    return arrays


def python_2(content: dict[str, Any]) -> bytes:
    """Return a pickle as Python 2 wrote those of CIFAR: text is bytes, arrays are rebuilt by numpy 1."""
    plain = {key.encode(): value for key, value in content.items()}
    data = pickle.dumps(plain, protocol=2)
    return data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray")


def write_cifar(root: Path, per_batch: int = 4, hundred: bool = False) -> dict[str, np.ndarray]:
    """Write CIFAR-10 or CIFAR-100 with few images per batch, and return the images (N, 32, 32, 3) of each file."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    files = ["train", "test"] if hundred else [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    classes = [f"class {n}".encode() for n in range(100 if hundred else 10)]
    images = {}
    for file in files:
        images[file] = rng.integers(0, 256, (per_batch, 32, 32, 3), dtype=np.uint8)
        planes = images[file].transpose(0, 3, 1, 2).reshape(per_batch, -1)
        labels = [int(n) for n in np.arange(per_batch) * 3 % len(classes)]
        names = {"fine_labels": labels, "coarse_labels": [0] * per_batch} if hundred else {"labels": labels}
        (root / file).write_bytes(python_2({"data": np.ascontiguousarray(planes), "batch_label": b"one", **names}))
    meta, key = ("meta", "fine_label_names") if hundred else ("batches.meta", "label_names")
    (root / meta).write_bytes(python_2({key: classes}))
    return images


def write_digits(file: Path, count: int = 40) -> np.ndarray:
    """Write images of 8 x 8 as scikit-learn stores its digits, and return their pixels from 0 to 16.

    The classes take turns; each has a random picture of its own, to which noise is added.
    """
    rng = np.random.default_rng(2)
    pictures = 12 * rng.integers(0, 2, (10, 8, 8))
    target = np.arange(count) % 10
    pixels = pictures[target] + rng.integers(0, 5, (count, 8, 8))
    table = np.column_stack([pixels.reshape(count, -1), target])
    lines = [",".join(f"{value:.18e}" for value in row) for row in table]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return pixels
