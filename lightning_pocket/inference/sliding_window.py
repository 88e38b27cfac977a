"""Prediction of images of any size by overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from types import EllipsisType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pocket.errors import PocketError

from .importance import gaussian_importance

Window = tuple[EllipsisType | slice, ...]  # leading axes whole, then a slice for each spatial axis


@dataclass(frozen=True)
class SlidingWindow:
    """Predicts an image window by window and averages where windows overlap.

    Each voxel is the weighted mean of all windows that contain it. (The published PocketNet code assigned each window
    over the last one instead of accumulating, so its Gaussian weights had no effect.) The mean is kept running,
    ``mean += (output - mean) * w / (W + w)``, where ``W`` is the sum of the weights so far: windows that agree come
    back exactly, whatever the weights, and no division over the whole image is needed at the end.

    Memory: the image, the mean (``K`` volumes per item), the weights (one volume) and the windows of one batch. It
    does not depend on the number of windows. Gradients and precision are the caller's choice: call it under
    ``torch.no_grad()`` or ``torch.inference_mode()``, and under ``torch.autocast`` if you like.

    Args:
        overlap: Fraction of a window that the next one repeats, in [0, 1).
        importance: How voxels of a window count: ``"gaussian"`` trusts the centre, ``"uniform"`` all voxels alike.
        sigma_scale: Standard deviation of the Gaussian as a fraction of the window.
        window_batch: Windows predicted at a time.

    Raises:
        PocketError: If a setting is out of range.
    """

    overlap: float = 0.5
    importance: Literal["gaussian", "uniform"] = "gaussian"
    sigma_scale: float = 0.125
    window_batch: int = 1

    def __post_init__(self) -> None:
        _check_overlap(self.overlap)
        if str(self.importance) not in ("gaussian", "uniform"):
            raise PocketError(f"importance: found {self.importance!r}; choose 'gaussian' or 'uniform'.")
        if self.sigma_scale <= 0:
            raise PocketError(f"sigma_scale: found {self.sigma_scale}; give a number above 0.")
        if self.window_batch < 1:
            raise PocketError(f"window_batch: found {self.window_batch}; give at least 1 window.")

    def __call__(self, predict: Callable[[Tensor], Tensor], image_BCS: Tensor, patch_size: Sequence[int]) -> Tensor:
        """Return the prediction for whole images.

        An axis shorter than the patch is zero-padded on both sides and cropped back. An image of one window is
        predicted directly, without weights.

        Args:
            predict: Maps windows ``(window_batch * B, C, *patch_size)`` to outputs ``(window_batch * B, K,
                *patch_size)``; the last batch may be smaller.
            image_BCS: ``(B, C, *S)`` images, 2D or 3D.
            patch_size: Voxels of a window along each spatial axis.

        Returns:
            ``(B, K, *S)`` float32 on the device of the image.

        Raises:
            PocketError: If the patch does not fit the number of axes, or the output has another size than its input.
        """
        size = image_BCS.shape[2:]
        if len(patch_size) != len(size) or min(patch_size) < 1:
            raise PocketError(
                f"patch_size: found {list(patch_size)} for an image of {len(size)} spatial axes; "
                "give at least 1 voxel for each axis."
            )
        image_BCS, inner = _pad(image_BCS, patch_size)
        if list(image_BCS.shape[2:]) == list(patch_size):
            output_BKS = _predict(predict, image_BCS).float()
        else:
            output_BKS = self._average(predict, image_BCS, patch_size)
        return output_BKS[inner]

    def _average(self, predict: Callable[[Tensor], Tensor], image_BCS: Tensor, patch_size: Sequence[int]) -> Tensor:
        window_weight = self._window_weight(patch_size).to(image_BCS.device)
        weight_S = torch.zeros(image_BCS.shape[2:], device=image_BCS.device)
        mean_BKS: Tensor | None = None
        windows = self._windows(image_BCS.shape[2:], patch_size)
        for first in range(0, len(windows), self.window_batch):
            batch = windows[first : first + self.window_batch]
            crops = torch.cat([image_BCS[window] for window in batch])
            outputs = _predict(predict, crops)
            if mean_BKS is None:
                mean_BKS = weight_S.new_zeros(len(image_BCS), outputs.shape[1], *weight_S.shape)
            for window, output_BKS in zip(batch, outputs.chunk(len(batch)), strict=True):
                total = weight_S[window].add_(window_weight)
                mean_BKS[window].lerp_(output_BKS.float(), window_weight / total)
            del crops, outputs, output_BKS  # or the next batch would be predicted beside this one
        if mean_BKS is None:
            raise PocketError(f"image: found shape {tuple(image_BCS.shape)}; expected at least one voxel on each axis.")
        return mean_BKS

    def _window_weight(self, patch_size: Sequence[int]) -> Tensor:
        if self.importance == "uniform":
            return torch.ones(*patch_size)
        return gaussian_importance(patch_size, self.sigma_scale)

    def _windows(self, size: Sequence[int], patch_size: Sequence[int]) -> list[Window]:
        starts = [window_starts(n, patch, self.overlap) for n, patch in zip(size, patch_size, strict=True)]
        return [_window(corner, patch_size) for corner in product(*starts)]


def window_starts(size: int, patch: int, overlap: float) -> list[int]:
    """Return where windows start along one axis.

    Neighbours are ``patch * (1 - overlap)`` voxels apart, rounded down, at least 1; the last window is shifted to end
    at the border.

    Args:
        size: Voxels of the image along the axis, at least ``patch``.
        patch: Voxels of a window along the axis.
        overlap: Fraction of a window that the next one repeats, in [0, 1).

    Returns:
        First voxel of each window, ascending from 0 to ``size - patch``.

    Raises:
        PocketError: If ``overlap`` is out of range or the patch does not fit the image.
    """
    _check_overlap(overlap)
    if not 1 <= patch <= size:
        raise PocketError(f"patch_size: found {patch} voxels on an axis of {size}; give 1 to {size}, or pad the image.")
    step = max(1, math.floor(patch * (1 - overlap) + 1e-9))  # 10 * (1 - 0.9) is 0.9999999999999998
    return [*range(0, size - patch, step), size - patch]


def _pad(image_BCS: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, Window]:
    """Return the image, at least as large as the patch, and where the original lies in it."""
    size = image_BCS.shape[2:]
    missing = [max(0, patch - n) for n, patch in zip(size, patch_size, strict=True)]
    before = [m // 2 for m in missing]
    inner = _window(before, size)
    if not any(missing):
        return image_BCS, inner
    margins = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return F.pad(image_BCS, [margin for pair in reversed(margins) for margin in pair]), inner


def _window(corner: Sequence[int], size: Sequence[int]) -> Window:
    spatial = [slice(start, start + length) for start, length in zip(corner, size, strict=True)]
    return (..., *spatial)


def _predict(predict: Callable[[Tensor], Tensor], crops: Tensor) -> Tensor:
    outputs = predict(crops)
    if outputs.shape[0] != crops.shape[0] or outputs.shape[2:] != crops.shape[2:]:
        raise PocketError(
            f"predict: found an output of shape {tuple(outputs.shape)} for windows of shape {tuple(crops.shape)}; "
            "expected the same batch and spatial size. Choose a patch_size that the network returns unchanged."
        )
    return outputs


def _check_overlap(overlap: float) -> None:
    if not 0 <= overlap < 1:
        raise PocketError(f"overlap: found {overlap}; give a fraction from 0 to below 1.")
