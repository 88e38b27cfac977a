"""Class of each voxel of an image of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_pocket.errors import PocketError

from .sliding_window import SlidingWindow
from .window_predictor import free_cached_memory, is_out_of_memory


def segment(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    patch_size: Sequence[int],
    window: SlidingWindow,
    probabilities: np.ndarray | None = None,
) -> np.ndarray:
    """Return the class of each voxel, keeping the logits of one slab at a time.

    Args:
        predict: Maps windows ``(B, C, *patch_size)`` to logits ``(B, K, *patch_size)``.
        image: ``(C, *S)``, prepared intensities.
        patch_size: Voxels of a window along each spatial axis.
        window: How the image is covered.
        probabilities: ``(K, *S)`` float32 to be filled with the softmax of the logits, such as a memory-mapped file.

    Returns:
        ``(*S)`` uint8 class indices.

    Raises:
        PocketError: If the logits are not finite, or a single window does not fit into memory.
    """
    label = np.empty(image.shape[1:], np.uint8)
    with torch.inference_mode():
        for first, slab in window.slabs(predict, image[None], patch_size):
            planes = slice(first, first + slab.shape[2])
            if not torch.isfinite(slab).all():
                raise PocketError(
                    "the network's output is not finite. In float16 take precision bfloat16 or float32; else the "
                    "weights are broken: take an earlier checkpoint."
                )
            label[planes] = _in_memory(lambda logits: logits.argmax(0).to(torch.uint8), slab[0])
            if probabilities is not None:
                probabilities[:, planes] = _in_memory(lambda logits: logits.softmax(0), slab[0])
    return label


def _in_memory(function: Callable[[Tensor], Tensor], slab: Tensor) -> np.ndarray:
    """Apply a function where the slab is, or on the CPU if memory runs out there."""
    try:
        return function(slab).cpu().numpy()
    except RuntimeError as error:
        if slab.device.type == "cpu" or not is_out_of_memory(error):
            raise
    free_cached_memory()
    return function(slab.cpu()).numpy()
