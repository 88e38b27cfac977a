"""Writers of small data sets of 2D images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_pocket.cli import main


def picture(index: int, size: tuple[int, int] = (20, 24)) -> np.ndarray:
    """Return a random grey image, another for each index."""
    return np.random.default_rng(index).integers(0, 256, size, dtype=np.uint8)


def write_covidx(root: Path, train: int = 12, test: int = 6) -> Path:
    """Write a miniature COVIDx: ids with a space, png and jpg, two images per patient, every third positive."""
    for split, count, offset in (("train", train, 0), ("test", test, 1000)):
        (root / split).mkdir(parents=True)
        lines = []
        for index in range(count):
            name = f"{split} {index}.png".replace(" ", "-") if index % 2 else f"{split}({index}).jpg"
            Image.fromarray(picture(offset + index)).save(root / split / name)
            label = "negative" if index % 3 else "positive"
            lines.append(f"P {split} {index // 2} {name} {label} sirm")
        (root / f"{split}_COVIDx8B.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_image_table(root: Path, rows: list[dict[str, str]]) -> Path:
    """Write ``images.csv`` and an image for each row."""
    root.mkdir(parents=True, exist_ok=True)
    for index, row in enumerate(rows):
        Image.fromarray(picture(index)).save(root / row["image"])
    columns = list(rows[0])
    lines = [",".join(columns), *(",".join(row[name] for name in columns) for row in rows)]
    (root / "images.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / "images.csv"


def write_classes(root: Path, counts: dict[str, int]) -> Path:
    """Write one folder of images per class."""
    number = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(picture(number)).save(root / name / f"{index:03d}.png")
            number += 1
    return root


def write_medmnist(file: Path, counts: dict[str, int], channels: int | None = None) -> dict[str, np.ndarray]:
    """Write an npz file of 9 x 7 images of two classes that take turns, and return its arrays."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in counts.items():
        shape = (count, 9, 7) if channels is None else (count, 9, 7, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    np.savez_compressed(file, **arrays)
    return arrays


def checked(data: Path, capsys, *options: str, code: int = 0) -> str:
    """Run `pocket check` in this process and return what it says."""
    capsys.readouterr()
    if code:
        with pytest.raises(SystemExit) as caught:
            main(["check", str(data), "--workers=1", *options])
        assert caught.value.code == code
    else:
        main(["check", str(data), "--workers=1", *options])
    return capsys.readouterr().out
