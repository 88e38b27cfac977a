"""Writers of small data sets of 2D images with masks, and what `pocket check` says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from lightning_pocket.data.layouts import find_layout
from lightning_pocket.data.layouts.images import ImageCase
from lightning_pocket.data.layouts.masks import MaskLayout


def disc(index: int, size: tuple[int, int] = (40, 56), value: int = 255) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy grey image with a bright disc, and the mask of the disc; another for each index."""
    rng = np.random.default_rng(index)
    row, column = (rng.integers(10, side - 10) for side in size)
    rows, columns = np.mgrid[: size[0], : size[1]]
    inside = (rows - row) ** 2 + (columns - column) ** 2 < rng.integers(5, 9) ** 2
    grey = np.clip(60 + 120 * inside + 15 * rng.normal(size=size), 0, 255).astype(np.uint8)
    return grey, np.where(inside, value, 0).astype(np.uint8)


def save(pixels: np.ndarray, path: Path, **options: object) -> Path:
    """Write an image; the suffix chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def write_pairs(
    root: Path, count: int = 10, value: int = 255, sizes: tuple[tuple[int, int], ...] = ((40, 56),)
) -> Path:
    """Write ``images/`` and ``masks/`` of discs; sizes take turns."""
    for index in range(count):
        image, mask = disc(index, sizes[index % len(sizes)], value)
        save(image, root / "images" / f"case_{index:02d}.png")
        save(mask, root / "masks" / f"case_{index:02d}.png")
    return root


def write_index(root: Path, columns: dict[str, list[str]]) -> Path:
    """Write ``index.csv`` with these columns."""
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(row) for row in rows)]
    (root / "index.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def write_busi(root: Path) -> Path:
    """Write the layout of BUSI's release: three benign images, one with two masks, two malignant and one normal."""
    folder = root / "Dataset_BUSI_with_GT"
    for index, name in enumerate(
        ["benign (1)", "benign (2)", "benign (3)", "malignant (1)", "malignant (2)", "normal (1)"]
    ):
        image, mask = disc(index)
        kind = name.split()[0]
        save(np.stack([image] * 3, -1), folder / kind / f"{name}.png")
        empty = np.zeros((*mask.shape, 3), np.uint8)
        save(empty if kind == "normal" else mask > 0, folder / kind / f"{name}_mask.png")
    extra = np.zeros((40, 56), bool)
    extra[:3, :4] = True
    save(extra, folder / "benign" / "benign (2)_mask_1.png")
    return root


def write_hc18(root: Path) -> dict[str, tuple[float, float, float, float, float]]:
    """Write the layout of HC18's release: outlines of ellipses, and pixel sizes.

    Returns:
        Centre (row, column), half axes and angle of the ellipse of each image.
    """
    ellipses = {
        "001_HC": (60.0, 80.0, 40.0, 30.0, 0.4),
        "001_2HC": (50.0, 90.0, 35.0, 33.0, 0.0),
        "002_HC": (20.0, 80.0, 45.0, 35.0, 1.0),  # cut by the border
    }
    lines = ["filename,pixel size(mm),head circumference (mm)"]
    for number, (name, ellipse) in enumerate(ellipses.items()):
        value = conic((120, 160), *ellipse)
        inside = value < 1
        padded = np.pad(inside, 1, mode="edge")
        shrunk = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        save(np.where(inside & ~shrunk, 255, 0).astype(np.uint8), root / "training_set" / f"{name}_Annotation.png")
        save(disc(number, (120, 160))[0], root / "training_set" / f"{name}.png")
        lines.append(f"{name}.png,0.{number + 1},100.0")
    (root / "training_set_pixel_size_and_HC.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ellipses


def conic(shape: tuple[int, int], row: float, column: float, a: float, b: float, angle: float) -> np.ndarray:
    """Return the squared distance from the centre of an ellipse in units of its radius; inside it is below 1."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    y, x = rows - row, columns - column
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return (u / a) ** 2 + (v / b) ** 2


def found(path: Path, name: str) -> MaskLayout:
    """Return the data set, whose layout must be this one."""
    layout = find_layout(path)
    assert isinstance(layout, MaskLayout)
    assert layout.name == name
    return layout


def cases_of(layout: MaskLayout) -> dict[str, ImageCase]:
    """Return the images by name."""
    return {case.subject: case for case in layout.image_cases()}
