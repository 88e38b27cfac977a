"""Prediction of images of any size by overlapping windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_pocket.errors import PocketError

from .importance import gaussian_importance
from .slab import Slab, Window
from .window_predictor import WindowPredictor, free_cached_memory, is_out_of_memory


@dataclass(frozen=True)
class SlidingWindow:
    """Predicts an image window by window and averages where windows overlap.

    Each voxel is the weighted mean of all windows that contain it. (The published PocketNet code assigned each window
    over the last one instead of accumulating, so its Gaussian weights had no effect.) The mean is kept running,
    ``mean += (output - mean) * w / (W + w)``, where ``W`` is the sum of the weights so far: windows that agree come
    back exactly, whatever the weights, and no division over the whole image is needed at the end.

    Memory: the windows of one batch, and the mean and weights of one slab: as many planes along the first spatial axis
    as a window has. Slabs are handed out as soon as no window can change them any more (:meth:`slabs`), so what is
    needed depends neither on the number of windows nor on the length of that axis. The mean is kept where the outputs
    are; the image may lie elsewhere. When memory runs out, fewer windows are predicted at a time, then the mean is kept
    on the CPU; only when a single window does not fit is there an error.

    Gradients and precision are the caller's choice: call it under ``torch.no_grad()`` or ``torch.inference_mode()``,
    and under ``torch.autocast`` if you like.

    Args:
        overlap: Fraction of a window that the next one repeats, in [0, 1).
        importance: How voxels of a window count: ``"gaussian"`` trusts the centre, ``"uniform"`` all voxels alike.
        sigma_scale: Standard deviation of the Gaussian as a fraction of the window.
        window_batch: Windows predicted at a time, at most those of one slab.
        flips: Predict each window in every combination of flipped axes too, and average: 4 times the work in 2D, 8
            times in 3D.

    Raises:
        PocketError: If a setting is out of range.
    """

    overlap: float = 0.5
    importance: Literal["gaussian", "uniform"] = "gaussian"
    sigma_scale: float = 0.125
    window_batch: int = 1
    flips: bool = False

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
        output_BKS: Tensor | None = None
        for first, slab in self.slabs(predict, image_BCS, patch_size):
            if output_BKS is None:
                output_BKS = image_BCS.new_empty(*slab.shape[:2], *image_BCS.shape[2:], dtype=torch.float32)
            output_BKS[:, :, first : first + slab.shape[2]] = slab
        if output_BKS is None:
            raise PocketError(f"image: found shape {tuple(image_BCS.shape)}; expected at least one voxel on each axis.")
        return output_BKS

    def slabs(
        self, predict: Callable[[Tensor], Tensor], image_BCS: Tensor, patch_size: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the prediction in slabs along the first spatial axis, in order and without gaps.

        Args:
            predict: As in :meth:`__call__`; it may return its outputs on another device than the image's.
            image_BCS: ``(B, C, *S)`` images, 2D or 3D.
            patch_size: Voxels of a window along each spatial axis.

        Yields:
            First plane of the slab, and the slab ``(B, K, planes, *S[1:])``, float32, on the device of the outputs or
            on the CPU. The next slab overwrites it.

        Raises:
            PocketError: As in :meth:`__call__`, and if a single window does not fit into memory.
        """
        size = image_BCS.shape[2:]
        if len(patch_size) != len(size) or min(patch_size) < 1:
            raise PocketError(
                f"patch_size: found {list(patch_size)} for an image of {len(size)} spatial axes; "
                "give at least 1 voxel for each axis."
            )
        image_BCS, (planes, *rest) = _pad(image_BCS, patch_size)
        predictor = WindowPredictor(predict, self.flips)
        if list(image_BCS.shape[2:]) == list(patch_size):
            yield 0, _in_memory(predictor, [image_BCS], None)[0][:, :, planes, *rest]
            return
        for first, mean_BKS in self._means(predictor, image_BCS, patch_size):
            low, high = max(first, planes.start), min(first + mean_BKS.shape[2], planes.stop)
            if low < high:
                yield low - planes.start, mean_BKS[:, :, low - first : high - first, *rest]

    def count(self, size: Sequence[int], patch_size: Sequence[int]) -> int:
        """Return the number of windows that cover an image.

        Args:
            size: Voxels of the image along each spatial axis.
            patch_size: Voxels of a window along each spatial axis.
        """
        pairs = zip(size, patch_size, strict=True)
        return math.prod(len(window_starts(max(n, patch), patch, self.overlap)) for n, patch in pairs)

    def _means(
        self, predictor: WindowPredictor, image_BCS: Tensor, patch_size: Sequence[int]
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield first plane and weighted mean of finished slabs of the padded image."""
        size = image_BCS.shape[2:]
        starts, *others = (window_starts(n, patch, self.overlap) for n, patch in zip(size, patch_size, strict=True))
        slab: Slab | None = None
        for first, following in zip(starts, [*starts[1:], size[0]], strict=True):
            windows = [_window(corner, patch_size) for corner in product([first], *others)]
            for done in range(0, len(windows), self.window_batch):
                batch = windows[done : done + self.window_batch]
                outputs = _in_memory(predictor, [image_BCS[window] for window in batch], slab)
                if slab is None:
                    shape = (len(image_BCS), outputs[0].shape[1], patch_size[0], *size[1:])
                    slab = self._slab(shape, patch_size, outputs[0].device)
                for output, window in zip(outputs, batch, strict=True):
                    _make_room(slab, partial(slab.add, [output], [(..., slice(None), *window[2:])]))
                del outputs, output  # or the next batch would be predicted beside this one
            if slab is not None:
                yield first, slab.mean[:, :, : following - first]
                _make_room(slab, partial(slab.shift, following - first))

    def _slab(self, shape: Sequence[int], patch_size: Sequence[int], device: torch.device) -> Slab:
        uniform = self.importance == "uniform"
        weight = torch.ones(*patch_size) if uniform else gaussian_importance(patch_size, self.sigma_scale)
        try:
            return Slab(shape, weight, device)
        except RuntimeError as error:
            if device.type == "cpu" or not is_out_of_memory(error):
                raise
        return Slab(shape, weight, torch.device("cpu"))


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


def _pad(image_BCS: Tensor, patch_size: Sequence[int]) -> tuple[Tensor, list[slice]]:
    """Return the image, at least as large as the patch, and where the original lies in it along each spatial axis."""
    size = image_BCS.shape[2:]
    missing = [max(0, patch - n) for n, patch in zip(size, patch_size, strict=True)]
    before = [m // 2 for m in missing]
    inner = [slice(start, start + n) for start, n in zip(before, size, strict=True)]
    if not any(missing):
        return image_BCS, inner
    margins = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return F.pad(image_BCS, [margin for pair in reversed(margins) for margin in pair]), inner


def _window(corner: Sequence[int], size: Sequence[int]) -> Window:
    spatial = [slice(start, start + length) for start, length in zip(corner, size, strict=True)]
    return (..., *spatial)


def _check_overlap(overlap: float) -> None:
    if not 0 <= overlap < 1:
        raise PocketError(f"overlap: found {overlap}; give a fraction from 0 to below 1.")


def _make_room(slab: Slab, change: Callable[[], None]) -> None:
    """Change a slab; where memory runs out, move it to the CPU first."""
    try:
        change()
    except RuntimeError as error:
        if slab.mean.device.type == "cpu" or not is_out_of_memory(error):
            raise
        slab.move_to_cpu()
        free_cached_memory()
        change()


def _in_memory(predictor: WindowPredictor, crops: Sequence[Tensor], slab: Slab | None) -> list[Tensor]:
    """Return the outputs of windows; where memory runs out, make room by moving the slab to the CPU."""
    try:
        return predictor(crops)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        if slab is None or slab.mean.device.type == "cpu":
            size = "x".join(map(str, crops[0].shape[2:]))
            raise PocketError(
                f"out of memory: a single window of {size} voxels does not fit. Use a device with more memory, such "
                "as the CPU, or lower precision."
            ) from error
    slab.move_to_cpu()
    free_cached_memory()
    return predictor(crops)
