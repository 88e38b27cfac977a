"""Seconds for HD95 and ASD of one case of BraTS size, against SimpleITK's recipe, interleaved in one run.

    python benchmarks/surface.py [--rounds 5] [--output FILE.json]

The case is a 155 x 240 x 240 phantom of a tumour with a core, and a prediction that differs from it: two classes, with
a few islands. The recipe pads each mask by a voxel, takes ``LabelContour`` and the absolute ``SignedMaurerDistanceMap``
of it, on the whole image and, for comparison, on the box that holds both masks. It stops with an error if the values
differ. Only ratios within one run mean anything.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import scipy
import SimpleITK as sitk

from lightning_pocket.callbacks.run_manifest import hardware
from lightning_pocket.metrics.surface import bounding_box, surface_distances

SHAPE = (155, 240, 240)
SPACING = (1.0, 1.0, 1.0)
CLASSES = (1, 2)
LARGEST_DIFFERENCE = 1e-5  # mm

Measure = Callable[[np.ndarray, np.ndarray], tuple[float, float]]


def phantom(seed: int) -> np.ndarray:
    """Return a label map ``(D, H, W)``: a tumour of about 30,000 surface voxels (1) with a core (2), and islands."""
    rng = np.random.default_rng(seed)
    centre = np.array([77, 120, 115]) + rng.uniform(-1, 1, 3)
    away = [np.arange(size, dtype=np.float32) - middle for size, middle in zip(SHAPE, centre, strict=True)]
    offset = np.stack(np.meshgrid(*away, indexing="ij"))
    radius = np.sqrt((offset**2).sum(axis=0))
    waves = [rng.uniform(0.1, 0.25) * offset[axis] + rng.uniform(0, 6) for axis in range(3)]
    edge = 45 * (1 + 0.06 * sum(np.sin(wave) for wave in waves))
    label = np.select([radius < 0.5 * edge, radius < edge], [2, 1], 0).astype(np.uint8)
    for _ in range(5):
        d, h, w = (int(rng.integers(5, size - 10)) for size in SHAPE)
        label[d : d + 4, h : h + 4, w : w + 4] = 1
    return label


def ours(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return HD95 and ASD in mm by this package."""
    found = surface_distances(first, second, SPACING)
    return found.hd95_mm, found.asd_mm


def recipe(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return HD95 and ASD in mm by SimpleITK on the whole arrays."""
    surfaces, distances = [], []
    for mask in (first, second):
        image = sitk.ConstantPad(sitk.GetImageFromArray(mask.astype(np.uint8)), [1] * 3, [1] * 3, 0)
        image.SetSpacing(SPACING[::-1])
        contour = sitk.LabelContour(image, fullyConnected=False)
        distance = sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True)
        surfaces.append(sitk.GetArrayFromImage(contour) > 0)
        distances.append(np.abs(sitk.GetArrayFromImage(distance)))
    forth, back = distances[1][surfaces[0]], distances[0][surfaces[1]]
    highest = max(np.percentile(forth, 95), np.percentile(back, 95))
    return float(highest), float(np.concatenate([forth, back]).mean(dtype=float))


def cropped_recipe(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return HD95 and ASD in mm by SimpleITK on the box that holds both masks."""
    box = bounding_box(first | second)
    return recipe(first[box], second[box])


def main() -> None:
    """Run the benchmark, print it, and write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    predicted, truth = phantom(1), phantom(0)
    masks = [(predicted == value, truth == value) for value in CLASSES]
    ways: dict[str, Measure] = {"surface_distances": ours, "recipe": recipe, "cropped recipe": cropped_recipe}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    values: dict[str, list[tuple[float, float]]] = {}
    for _ in range(options.rounds):
        for name, measure in ways.items():
            start = time.perf_counter()
            values[name] = [measure(*pair) for pair in masks]
            seconds[name].append(time.perf_counter() - start)
    difference = max(float(np.abs(np.subtract(values[name], values["recipe"])).max()) for name in ways)
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the ways differ by {difference:g} mm: {values}")
    medians = {name: median(times) for name, times in seconds.items()}
    ratios = {name: medians[name] / medians["surface_distances"] for name in ways if name != "surface_distances"}
    for name, time_s in medians.items():
        print(f"{name:<18}{time_s:>9.3f} s")
    for name, ratio in ratios.items():
        print(f"{name} / surface_distances: {ratio:.1f}")
    print(f"largest difference: {difference:.1e} mm")
    if options.output:
        content = {
            "device": hardware(),
            "data": f"phantom of {' x '.join(map(str, SHAPE))} voxels, classes 1 and 2",
            "versions": {"numpy": np.__version__, "scipy": scipy.__version__, "SimpleITK": sitk.__version__},
            "threads": {"surface_distances": 1, "SimpleITK": sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()},
            "settings": {"rounds": options.rounds},
            "hd95_and_asd_mm": values["surface_distances"],
            "largest_difference_mm": difference,
            "median_s": medians,
            "ratios": ratios,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
