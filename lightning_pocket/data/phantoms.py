"""Small abdomens to try everything on: drawn, not measured, but hard to segment by intensity alone.

Each phantom has a body wall, a spine, muscles, bowel and organs that vary from case to case. Three structures are
labelled, and each looks nearly as bright as larger ones that are not: the liver as muscle and spleen, the kidneys as
stomach and bowel, the aorta as vertebrae and the fat under the skin. Shape, texture and surroundings tell them apart,
not the side of the body: a mirrored phantom still shows what is what.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lightning_pocket.data.grid import Grid
from lightning_pocket.data.images import Volume, write_volume
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import read_json, write_json

CLASSES = ("background", "liver", "kidneys", "aorta")
_LIVER, _KIDNEYS, _AORTA = 1, 2, 3
_MIN_SIZE = 16  # voxels; the aorta would be thinner than two voxels

Array = NDArray[Any]


class Phantom(NamedTuple):
    """A drawn abdomen.

    Attributes:
        image: ``(D, H, W)`` int16, arbitrary units, in LPS orientation.
        label: ``(D, H, W)`` uint8, index into :data:`CLASSES`.
        spacing: Voxel size in mm along (D, H, W).
    """

    image: Array
    label: Array
    spacing: tuple[float, float, float]


def make_phantom(seed: int, index: int, size: Sequence[int] = (40, 60, 60)) -> Phantom:
    """Draw one phantom; equal arguments give equal voxels.

    Args:
        seed: Seed of the data set.
        index: Number of the case.
        size: Typical voxels along (D, H, W); each case differs by up to 10 %.

    Returns:
        Image, label and spacing of about (2.25, 1.25, 1.25) mm.

    Raises:
        PocketError: If ``size`` is not three numbers of at least 16.
    """
    if len(size) != 3 or min(size) < _MIN_SIZE:
        raise PocketError(f"size: found {list(size)}; give three numbers of at least {_MIN_SIZE} voxels (D, H, W).")
    rng = np.random.default_rng([seed, index])
    shape = tuple(round(n * rng.uniform(0.9, 1.1)) for n in size)
    spacing = tuple(round(float(s), 3) for s in rng.uniform((2.0, 1.2, 1.2), (2.5, 1.3, 1.3)))
    canvas = _Canvas(rng, shape)
    _draw_wall(canvas)
    _draw_spine(canvas)
    _draw_organs(canvas)
    _draw_kidneys(canvas)
    _draw_aorta(canvas)
    return Phantom(_acquire(canvas), canvas.label, (spacing[0], spacing[1], spacing[2]))


def write_phantoms(output: Path, cases: int = 24, seed: int = 0, size: Sequence[int] = (40, 60, 60)) -> bool:
    """Write phantoms as a data set in the layout of the Medical Segmentation Decathlon.

    Equal arguments write equal bytes. ``dataset.json`` is written last, so a folder that has it is complete.

    Args:
        output: Folder to write; missing folders are made.
        cases: Number of phantoms.
        seed: Seed of the data set.
        size: Typical voxels along (D, H, W).

    Returns:
        True if anything was written, False if the folder already holds this data set.

    Raises:
        PocketError: If ``cases`` or ``size`` is out of range, or the folder holds another data set.
    """
    if cases < 1:
        raise PocketError(f"cases: found {cases}; give at least 1.")
    names = [f"phantom_{index:03d}.nii.gz" for index in range(cases)]
    declaration = _declaration(names, {"cases": cases, "seed": seed, "size": list(size)})
    file = output / "dataset.json"
    if file.is_file():
        found = read_json(file)
        if found != declaration:
            held = found.get("phantoms") if isinstance(found, dict) else None
            raise PocketError(
                f"{file}: found {f'phantoms of {held}' if held else 'another data set'}; expected phantoms of "
                f"{declaration['phantoms']}. Choose another folder, or delete this one."
            )
        if all((output / folder / name).is_file() for folder in ("imagesTr", "labelsTr") for name in names):
            return False
    for index, name in enumerate(names):
        phantom = make_phantom(seed, index, size)
        depth, height, width = phantom.label.shape
        grid = Grid((depth, height, width), phantom.spacing, (0.0, 0.0, 0.0), (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
        write_volume(output / "imagesTr" / name, Volume(phantom.image, grid))
        write_volume(output / "labelsTr" / name, Volume(phantom.label, grid))
    write_json(file, declaration)
    return True


def _declaration(names: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "Phantoms",
        "description": "Drawn abdomens with liver, kidneys and aorta",
        "licence": "CC0-1.0",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): name for value, name in enumerate(CLASSES)},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
        "phantoms": settings,
    }


class _Canvas:
    """Voxels to draw on, in coordinates from -1 to 1 that follow a random smooth deformation of the body.

    Later structures cover earlier ones.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
        self.rng = rng
        self.shape = shape
        axes = [np.linspace(-1, 1, n) * rng.uniform(0.97, 1.05) + rng.uniform(-0.03, 0.03) for n in shape]
        z, y, x = np.meshgrid(*axes, indexing="ij")
        bend = [0.05 * np.tanh(_smooth_noise(rng, shape, max(shape) / 6)) for _ in range(3)]
        self.z, self.y, self.x = z + 2 * bend[0], y + bend[1], x + bend[2]
        self.signal = np.zeros(shape)
        self.label = np.zeros(shape, np.uint8)
        self.texture = 0.03 * _smooth_noise(rng, shape, 0.7)
        # Tissues differ a little from case to case.
        tissues = np.array([0.2, 0.5, 0.7, 0.9, 1.15]) + rng.uniform(-0.03, 0.03, 5)
        self.dark, self.medium, self.grey, self.bright, self.vivid = tissues

    def paint(self, inside: Array, signal: float, label: int = 0) -> None:
        self.signal[inside] = signal + self.rng.uniform(-0.03, 0.03)
        self.label[inside] = label

    def ellipsoid(self, centre: Sequence[float] | Array, radii: Sequence[float] | Array) -> Array:
        """Return the distance from an ellipsoid's centre, 1 on its surface; (z, y, x) order, place and size vary."""
        place = np.asarray(centre) + self.rng.uniform(-0.04, 0.04, 3)
        extent = np.asarray(radii) * self.rng.uniform(0.9, 1.1, 3)
        scaled = [(axis - c) / r for axis, c, r in zip((self.z, self.y, self.x), place, extent, strict=True)]
        return np.linalg.norm(scaled, axis=0)

    def tube(self, y: Array | float, x: Array | float) -> Array:
        """Return the distance from a line that runs along z through (y, x), which may differ from voxel to voxel."""
        return np.hypot(self.y - y, self.x - x)

    def trunk(self) -> Array:
        """Return the distance from the axis of the body, 1 on the skin."""
        return np.hypot(self.y / 0.92, self.x / 0.96)


def _draw_wall(canvas: _Canvas) -> None:
    trunk = canvas.trunk()
    canvas.paint(trunk < 1, canvas.bright)  # subcutaneous fat
    canvas.paint(trunk < 0.87, canvas.medium)  # muscle
    canvas.paint(trunk < 0.72, canvas.dark)


def _draw_spine(canvas: _Canvas) -> None:
    phase, height = canvas.rng.uniform(0, 2 * np.pi), canvas.rng.uniform(0.28, 0.34)
    vertebra = np.sin(2 * np.pi * canvas.z / height + phase) > -0.5
    column = canvas.tube(0.47, 0) < 0.17
    canvas.paint(column, canvas.medium)  # discs
    canvas.paint(column & vertebra, canvas.bright)
    canvas.paint(canvas.tube(0.72, 0) < 0.1, canvas.dark)  # spinal canal
    for side in (-0.3, 0.3):
        canvas.paint(canvas.tube(0.45, side) < 0.1, canvas.medium)  # psoas muscle


def _draw_organs(canvas: _Canvas) -> None:
    rng = canvas.rng
    inner = canvas.trunk() < 0.68
    for _ in range(14):  # bowel
        tissue = rng.choice([canvas.grey, canvas.bright, canvas.vivid])
        centre, radii = rng.uniform((-0.95, -0.5, -0.45), (0.1, -0.1, 0.45)), rng.uniform(0.09, 0.2, 3)
        canvas.paint((canvas.ellipsoid(centre, radii) < 1) & inner, tissue)
    stomach = canvas.ellipsoid((0.4, -0.25, 0.32), (0.4, 0.27, 0.22)) < 1
    canvas.paint(stomach & inner, canvas.vivid)
    spleen = canvas.ellipsoid((0.5, 0.15, 0.5), (0.3, 0.25, 0.13)) < 1
    canvas.paint(spleen & inner, canvas.medium)
    right_lobe = canvas.ellipsoid((0.4, -0.1, -0.36), (0.55, 0.45, 0.32)) < 1
    left_lobe = canvas.ellipsoid((0.5, -0.33, -0.05), (0.3, 0.22, 0.35)) < 1
    liver = (right_lobe | left_lobe) & inner
    canvas.paint(liver, canvas.medium + 0.05, _LIVER)
    canvas.texture[liver] += 0.1 * _smooth_noise(rng, canvas.shape, 1.1)[liver]  # mottled, unlike muscle


def _draw_kidneys(canvas: _Canvas) -> None:
    inner = canvas.trunk() < 0.72
    for side in (-0.43, 0.43):
        kidney = canvas.ellipsoid((-0.1, 0.2, side), (0.4, 0.22, 0.18))
        canvas.paint((kidney < 1.25) & inner, canvas.dark)  # the fat around it
        canvas.paint((kidney < 1) & inner, canvas.vivid, _KIDNEYS)
        canvas.paint(kidney < 0.45, canvas.medium, _KIDNEYS)  # sinus


def _draw_aorta(canvas: _Canvas) -> None:
    rng = canvas.rng
    sway = rng.uniform(0.02, 0.05) * np.sin(np.pi * canvas.z + rng.uniform(0, 2 * np.pi))
    division = rng.uniform(-0.6, -0.4)  # below it run the two iliac arteries, which count as aorta here
    spread = 0.6 * np.clip(division - canvas.z, 0, None)
    radius = rng.uniform(0.1, 0.12) * np.where(canvas.z < division, 0.85, 1)
    y = rng.uniform(0.13, 0.17) + 0.2 * spread
    inside = (canvas.tube(y, sway - spread) < radius) | (canvas.tube(y, sway + spread) < radius)
    canvas.paint(inside, canvas.bright, _AORTA)


def _acquire(canvas: _Canvas) -> Array:
    """Return the image that a scanner would make of the tissues, int16."""
    rng = canvas.rng
    signal = _blur(canvas.signal + canvas.texture * (canvas.signal > 0), 0.5)
    coil = np.exp(0.08 * _smooth_noise(rng, canvas.shape, max(canvas.shape) / 4))
    noise = rng.normal(0, 0.04, (2, *canvas.shape))
    magnitude = np.hypot(signal * coil + noise[0], noise[1])  # Rician, as in magnetic resonance
    return np.rint(rng.uniform(250, 350) * magnitude).astype(np.int16)


def _smooth_noise(rng: np.random.Generator, shape: Sequence[int], sigma: float) -> Array:
    """Return blurred white noise with mean 0 and standard deviation 1; ``sigma`` in voxels."""
    noise = _blur(rng.standard_normal(shape), sigma)
    return (noise - noise.mean()) / noise.std()


def _blur(array: Array, sigma: float) -> Array:
    return sitk.GetArrayFromImage(sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(array), sigma))


def best_intensity_dice(
    images: Sequence[Array], labels: Sequence[Array], num_classes: int = len(CLASSES), bins: int = 256
) -> float:
    """Return the best mean foreground Dice that any rule from intensity to class can reach.

    For each class the intensity bins are ranked by the fraction of their voxels that have the class; the best set of
    bins is a prefix of this order. Voxels of all cases are pooled, and the labels are known: an upper bound.

    Args:
        images: ``(D, H, W)`` intensities of each case, of any type.
        labels: ``(D, H, W)`` integers of each case.
        num_classes: Number of classes, background included.
        bins: Equal intensity bins between the smallest and the largest value.

    Returns:
        Mean over the foreground classes, in [0, 1].
    """
    intensity = np.concatenate([np.ravel(image) for image in images])
    label = np.concatenate([np.ravel(label) for label in labels])
    edges = np.histogram_bin_edges(intensity, bins)
    voxels = np.histogram(intensity, edges)[0]
    scores = []
    for k in range(1, num_classes):
        members = np.histogram(intensity[label == k], edges)[0]
        order = np.argsort(-members / np.maximum(voxels, 1), kind="stable")
        found, taken = np.cumsum(members[order]), np.cumsum(voxels[order])
        scores.append(float((2 * found / (taken + max(members.sum(), 1))).max()))
    return float(np.mean(scores))
