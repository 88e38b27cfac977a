"""Writers of small data sets of street scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mask_datasets import save

#: Rows of horizontal bands, from the top: what a picture of a street looks like from far away.
BANDS = (0.3, 0.6, 1.0)


def scene(index: int, values: tuple[int, ...], size: tuple[int, int] = (48, 64)) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy colour image of three bands and a box, and label values of the four; another for each index."""
    rng = np.random.default_rng(index)
    rows = np.arange(size[0])[:, None] / size[0] + np.zeros(size)
    part = np.searchsorted([BANDS[0] + 0.1 * rng.random(), BANDS[1] + 0.1 * rng.random()], rows)
    top, left = rng.integers(size[0] // 2, size[0] - 10), rng.integers(size[1] - 12)
    part[top : top + 8, left : left + 10] = 3
    colours = np.array([[120, 170, 230], [150, 90, 80], [90, 90, 90], [200, 30, 30]])
    image = np.clip(colours[part] + 12 * rng.normal(size=(*size, 3)), 0, 255).astype(np.uint8)
    return image, np.array(values, np.uint8)[part]


def write_cityscapes(root: Path, images: int = 4) -> Path:
    """Write the layout of Cityscapes: two cities of training, one of validation, one of test."""
    cities = {"train": ("aachen", "bochum"), "val": ("lindau",), "test": ("berlin",)}
    number = 0
    for split, names in cities.items():
        for city in names:
            for frame in range(images):
                name = f"{city}_{frame:06d}_000019"
                image, label = scene(number, (23, 11, 7, 26))  # sky, building, road, car
                label[0, :] = 3  # out of the region of interest
                label[-1, :] = 1  # the own car
                save(image, root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
                fine = root / "gtFine" / split / city
                save(label, fine / f"{name}_gtFine_labelIds.png")
                save(np.zeros((4, 4, 3), np.uint8), fine / f"{name}_gtFine_color.png")
                (fine / f"{name}_gtFine_polygons.json").write_text("{}", encoding="utf-8")
                number += 1
    return root


def write_segnet_camvid(root: Path, counts: tuple[int, int, int] = (6, 2, 3)) -> Path:
    """Write the layout of SegNet's copy of CamVid."""
    number = 0
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        for _ in range(count):
            image, label = scene(number, (0, 1, 3, 8))
            label[:2] = 11
            save(image, root / split / f"0016E5_{number:05d}.png")
            save(label, root / f"{split}annot" / f"0016E5_{number:05d}.png")
            number += 1
    return root


def write_coloured_camvid(root: Path, names: list[str], colours: list[tuple[int, int, int]]) -> Path:
    """Write the layout of CamVid's release; the label of each image is a row of these colours."""
    for number, name in enumerate(names):
        image, _ = scene(number, (0, 0, 0, 0), (24, len(colours)))
        label = np.broadcast_to(np.array(colours, np.uint8), (24, len(colours), 3)).copy()
        save(image, root / "701_StillsRaw_full" / f"{name}.png")
        save(label, root / "LabeledApproved_full" / f"{name}_L.png")
    return root
