"""Class of each voxel of an image of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .sliding_window import SlidingWindow


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
    """
    label = np.empty(image.shape[1:], np.uint8)
    with torch.inference_mode():
        for first, slab in window.slabs(predict, image[None], patch_size):
            planes = slice(first, first + slab.shape[2])
            label[planes] = slab[0].argmax(0).to("cpu", torch.uint8).numpy()
            if probabilities is not None:
                probabilities[:, planes] = slab[0].softmax(0).cpu().numpy()
    return label
