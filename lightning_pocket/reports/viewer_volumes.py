"""Volumes as a page holds them: few bytes, axes in one order, with what their values mean."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_pocket.errors import PocketError

from .slices import CaseSlices, fullest_slices, slice_case

if TYPE_CHECKING:  # pages without volumes need not wait for nibabel
    from nibabel.spatialimages import SpatialImage

#: Voxels of a volume that browsers show without trouble, 512 x 512 x 128: NiiVue makes several textures of four bytes a
#: voxel of them. Larger volumes are thinned out.
MOST_VOXELS = 2**25
#: Grids whose affines differ by less, in mm, are the same.
_SAME_MM = 1e-3
#: Stands for voxels without a class; the last value of uint8.
_NO_CLASS = 255


@dataclass(frozen=True)
class ViewedCase:
    """A case of the viewer.

    Args:
        name: What it is called.
        image: NIfTI file; of several channels the first is shown.
        truth: NIfTI file of the true classes on the same grid; None where they are not known.
        prediction: The same for the predicted classes.
        classes: Names of the classes; the first is background and is not drawn.
        caption: What a reader must know of the case, such as its Dice.
        values: Value of each class in the files; by default 0, 1, 2 and so on. Voxels with other values have no class.
    """

    name: str
    image: Path
    truth: Path | None
    prediction: Path | None
    classes: Sequence[str]
    caption: str
    values: Sequence[int] = ()


@dataclass(frozen=True)
class EncodedCase:
    """A case in the form in which a page holds it.

    Args:
        case: What it was made of.
        shape: Voxels along the axes, first to the patient's right, then to the front, then up.
        spacing: Voxel size in mm along the axes.
        start: Voxel at which the three planes cross that hold most foreground.
        window: Intensities that are drawn black and white, as ``slice_case`` finds them.
        parts: ``image``, a gzip-compressed NIfTI file; ``truth`` and ``prediction``, the gzip-compressed class of each
            voxel, one byte each, the first axis fastest; each in base64.
        slices: Three planes for readers who cannot open the viewer.
        step: Every how many voxels along each axis one is kept.
    """

    case: ViewedCase
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    start: tuple[int, int, int]
    window: tuple[float, float]
    parts: dict[str, str] = field(repr=False)
    slices: CaseSlices = field(repr=False)
    step: tuple[int, int, int] = (1, 1, 1)

    @property
    def size(self) -> int:
        """Bytes of the parts in a page."""
        return sum(map(len, self.parts.values()))


def encode_case(case: ViewedCase, most_voxels: int = MOST_VOXELS) -> EncodedCase:
    """Read a case and make it small: integers of one or two bytes, compressed.

    Integers stay as they are where two bytes hold them; other intensities become 65,535 steps between the least and the
    largest. Axes are permuted and turned around to run to the right, to the front and up, with the affine, so nothing
    is interpolated.

    Args:
        case: The case.
        most_voxels: Voxels above which only every second, third, ... of an axis is kept, finest axes first.

    Raises:
        PocketError: If a file cannot be read, is no volume, or the label maps lie on another grid.
    """
    volume = _read(case.image)
    step = _step(volume.shape[:3], volume.header.get_zooms()[:3], most_voxels)
    kept = tuple(slice(None, None, n) for n in step)
    image = _first_channel(np.asanyarray(volume.dataobj))
    labels = {
        part: _classes(path, volume, case)[kept]
        for part, path in (("truth", case.truth), ("prediction", case.prediction))
        if path is not None
    }
    affine = volume.affine @ np.diag([*step, 1])
    parts = {"image": _nifti(image[kept], affine)}
    parts |= {part: _packed(label.tobytes(order="F")) for part, label in labels.items()}
    # slice_case wants axes that run up, to the back and to the left
    empty = np.zeros(image[kept].shape, dtype=np.uint8)
    shown = (image[kept], labels.get("truth", empty), labels.get("prediction", empty))
    grey, truth, predicted = (array[::-1, ::-1].transpose(2, 1, 0) for array in shown)
    x, y, z = (float(side) for side in np.linalg.norm(affine[:3, :3], axis=0))
    slices = slice_case(grey, truth, predicted, (z, y, x), len(case.classes))
    depth, height, width = grey.shape
    up, back, left = fullest_slices(truth, predicted, len(case.classes))
    shape, start = (width, height, depth), (width - 1 - left, height - 1 - back, up)
    return EncodedCase(case, shape, (x, y, z), start, slices.window, parts, slices, step)


def _read(path: Path) -> Any:
    """Open a volume with its axes to the right, to the front and up."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        volume: SpatialImage = nibabel.load(path)
        shape = volume.shape
        if len(shape) < 3 or min(shape) < 1 or max(shape[:3]) < 2:
            raise PocketError(
                f"{path}: found an image of {shape} voxels, expected a volume; leave it out of the viewer."
            )
        if volume.get_data_dtype().kind not in "biuf":
            raise PocketError(
                f"{path}: found voxels of type {volume.get_data_dtype()}, expected numbers; leave it out."
            )
        canonical = nibabel.as_closest_canonical(volume)
        canonical.dataobj[(0,) * len(shape)]
    except (OSError, EOFError, ValueError, ImageFileError) as error:
        raise PocketError(f"{path}: cannot be read as NIfTI ({error}). Write it again, or leave it out.") from error
    return canonical


def _first_channel(array: np.ndarray) -> np.ndarray:
    while array.ndim > 3:
        array = array[..., 0]
    return array


def _step(shape: Sequence[int], spacing: Sequence[float], most: int) -> tuple[int, int, int]:
    """Return every how many voxels one is kept: the axis on which they lie closest is thinned out first."""
    step = [1, 1, 1]
    while np.prod([-(-side // n) for side, n in zip(shape, step, strict=True)]) > most:
        step[int(np.argmin([side * n for side, n in zip(spacing, step, strict=True)]))] += 1
    return step[0], step[1], step[2]


def _classes(path: Path, image: Any, case: ViewedCase) -> np.ndarray:
    """Return the class of each voxel, uint8, on the grid of the image."""
    volume = _read(path)
    label = _first_channel(np.asanyarray(volume.dataobj))
    if label.shape != image.shape[:3] or np.abs(volume.affine - image.affine).max() > _SAME_MM:
        raise PocketError(
            f"{path}: {label.shape} voxels, {case.image} has {image.shape[:3]}, or the affines differ; the viewer "
            "expects label maps on the grid of the image. Leave the case out, or write the label map on that grid."
        )
    found = np.full(label.shape, _NO_CLASS, dtype=np.uint8)
    for k, value in enumerate(case.values or range(len(case.classes))):
        found[label == value] = k
    return found


def _nifti(image: np.ndarray, affine: np.ndarray) -> str:
    import nibabel

    stored, slope, intercept = _integers(image)
    volume = nibabel.Nifti1Image(stored, affine)
    volume.header.set_slope_inter(slope, intercept)
    return _packed(volume.to_bytes())


def _integers(image: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return intensities as uint8 or int16, and the slope and intercept that bring them back."""
    if image.dtype.kind == "f":
        finite = np.isfinite(image)
        image = np.where(finite, image, image[finite].min() if finite.any() else 0)
    low, high = float(image.min()), float(image.max())
    whole = image.dtype.kind in "iub" or bool((image == np.rint(image)).all())
    for kind in (np.uint8, np.int16):
        limits = np.iinfo(kind)
        if whole and limits.min <= low and high <= limits.max:
            return image.astype(kind), 1.0, 0.0
    slope, middle = (high - low) / 65534 or 1.0, (high + low) / 2
    return np.rint((image.astype(np.float64) - middle) / slope).astype(np.int16), slope, middle


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode("ascii")
