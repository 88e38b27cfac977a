"""The slices of a case that are worth a look, for volumes and for 2D images.

They are shown in the radiological convention: the patient's right is at the left of axial and coronal slices, anterior
is at the top of axial slices and at the left of sagittal ones, superior is at the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_pocket.errors import PocketError

_PERCENTILES = (0.5, 99.5)
_SAMPLE = 1_000_000  # voxels from which the intensity window is estimated: all of a large volume take seconds


@dataclass(frozen=True)
class CaseSlice:
    """One slice through a case, as it is shown.

    Args:
        plane: "axial", "coronal" or "sagittal"; "image" for a 2D image.
        image: ``(H, W)`` intensities.
        truth: ``(H, W)`` class of each pixel.
        predicted: ``(H, W)`` class of each pixel.
        spacing: Height and width of a pixel in mm.
    """

    plane: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    spacing: tuple[float, float]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width in mm."""
        height, width = self.image.shape
        return height * self.spacing[0], width * self.spacing[1]


@dataclass(frozen=True)
class CaseSlices:
    """The slices of a case, and the intensities that are drawn black and white.

    Args:
        slices: One for a 2D image; axial, coronal and sagittal for a volume.
        window: The 0.5th and 99.5th percentile of the intensities of the whole case.
    """

    slices: list[CaseSlice]
    window: tuple[float, float]

    def grey(self, index: int) -> np.ndarray:
        """Return the image of a slice ``(H, W)`` as uint8, from black to white over the window."""
        low, high = self.window
        image = np.nan_to_num(self.slices[index].image.astype(np.float32))
        scaled = (image - low) / (high - low if high > low else 1.0)
        return (255 * np.clip(scaled, 0, 1)).round().astype(np.uint8)


def slice_case(
    image: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    spacing: Sequence[float] | None,
    num_classes: int = 255,
) -> CaseSlices:
    """Cut the slices that hold most foreground: of the truth, else of the prediction, else the middle ones.

    Args:
        image: ``(C, *S)`` or ``(*S)`` intensities, 2D (H, W) or 3D (D, H, W); channel 0 is shown.
        truth: ``(*S)`` class of each voxel; what is no class is a voxel without a label.
        predicted: ``(*S)`` class of each voxel.
        spacing: Voxel size in mm along each spatial axis; None for voxels of equal sides.
        num_classes: Number of classes, background included.

    Returns:
        Copies of the slices, small enough to be kept.

    Raises:
        PocketError: If the arrays or the spacing do not fit each other.
    """
    image = image[0] if image.ndim == truth.ndim + 1 else image
    if image.ndim not in {2, 3} or not image.shape == truth.shape == predicted.shape:
        raise PocketError(
            f"picture: found image {image.shape}, truth {truth.shape} and prediction {predicted.shape}; expected three "
            "2D or 3D arrays of the same size."
        )
    sizes = [1.0] * image.ndim if spacing is None else [float(side) for side in spacing]
    if len(sizes) != image.ndim or min(sizes) <= 0:
        raise PocketError(f"spacing: found {sizes}; expected {image.ndim} positive sizes in mm, one per axis.")
    up = slice(None, None, -1)  # D starts at the feet
    cuts: dict[str, tuple[tuple[slice | int, ...], tuple[float, float]]]
    if image.ndim == 2:
        cuts = {"image": ((slice(None), slice(None)), (sizes[0], sizes[1]))}
    else:
        d, h, w = fullest_slices(truth, predicted, num_classes)
        depth, height, width = sizes
        cuts = {
            "axial": ((d, slice(None), slice(None)), (height, width)),
            "coronal": ((up, h, slice(None)), (depth, width)),
            "sagittal": ((up, slice(None), w), (depth, height)),
        }
    return CaseSlices(
        [
            CaseSlice(plane, image[cut].copy(), truth[cut].copy(), predicted[cut].copy(), size)
            for plane, (cut, size) in cuts.items()
        ],
        _window(image),
    )


def fullest_slices(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> list[int]:
    """Return, for each axis, the index of the slice with most foreground: of the truth, else of the prediction.

    Args:
        truth: ``(D, H, W)`` class of each voxel; what is no class does not count.
        predicted: The same of the prediction.
        num_classes: Number of classes, background included.

    Returns:
        Three indices; those of the middle slices where there is no foreground at all.
    """
    for label in (truth, predicted):
        foreground = (label > 0) & (label < num_classes)
        if foreground.any():
            axes = range(label.ndim)
            return [int(foreground.sum(tuple(b for b in axes if b != axis)).argmax()) for axis in axes]
    return [side // 2 for side in truth.shape]


def _window(image: np.ndarray) -> tuple[float, float]:
    step = max(1, round((image.size / _SAMPLE) ** (1 / image.ndim)))
    sample = image[(slice(None, None, step),) * image.ndim]
    finite = sample[np.isfinite(sample)]
    if not finite.size:
        return 0.0, 1.0
    low, high = np.percentile(finite, _PERCENTILES)
    return float(low), float(high)
