"""Cheap views of small images: random crops and flips of whole batches, and the ten views of a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_pocket.errors import PocketError

#: Views of an image in a test of ten crops; the first is the middle.
TEN = 10


@dataclass(frozen=True)
class CropFlip:
    """Pads images, cuts their size out at random and flips them left to right: the augmentation of CIFAR.

    So train ResNets (He et al., CVPR 2016, section 4.2): four pixels on each side. The padding is 0, which is the mean
    of the data where the preparation subtracted it.

    Args:
        padding: Pixels on each side; 0 cuts nothing.
        flip: Probability of a flip, in [0, 1]; 0 where left and right differ in meaning, as in digits.

    Raises:
        PocketError: If a setting is out of range.
    """

    padding: int = 4
    flip: float = 0.5

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise PocketError(f"data.init_args.crop_flip.padding: found {self.padding}, expected 0 pixels or more.")
        if not 0 <= self.flip <= 1:
            raise PocketError(f"data.init_args.crop_flip.flip: found {self.flip}, expected a probability from 0 to 1.")

    def draw(self, key: Sequence[int]) -> tuple[int, int, bool]:
        """Return top row, left column and whether to flip, for the random numbers of a key.

        Args:
            key: Seed, epoch and index of the image.
        """
        rng = np.random.default_rng([*key, 2])  # apart from what else is drawn for the image
        top, left = rng.integers(2 * self.padding + 1, size=2).tolist()
        return top, left, bool(rng.random() < self.flip)

    def __call__(self, images: Tensor, drawn: Sequence[tuple[int, int, bool]]) -> Tensor:
        """Return a batch of crops.

        Args:
            images: ``(B, C, H, W)``.
            drawn: What :meth:`draw` gave for each image.

        Returns:
            ``(B, C, H, W)``.
        """
        height, width = images.shape[2:]
        padded = F.pad(images, (self.padding,) * 4)
        top, left, flip = (torch.tensor(values)[:, None] for values in zip(*drawn, strict=True))
        rows = top + torch.arange(height)
        columns = torch.arange(width)
        columns = left + torch.where(flip, width - 1 - columns, columns)
        batch = torch.arange(len(images))[:, None, None]
        picked = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
        return picked.permute(0, 3, 1, 2).contiguous()


def ten_views(images: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the ten crops of a test out: the middle, the four corners, and the same flipped left to right.

    As Krizhevsky et al. (NeurIPS 2012, section 4.1) did; the order is ours.

    Args:
        images: ``(B, C, H, W)``.
        size: Rows and columns of a crop, not more than those of the images.

    Returns:
        ``(B, 10, C, *size)``.
    """
    bottom, right = (whole - part for whole, part in zip(images.shape[2:], size, strict=True))
    corners = [(bottom // 2, right // 2), (0, 0), (0, right), (bottom, 0), (bottom, right)]
    crops = torch.stack([images[..., y : y + size[0], x : x + size[1]] for y, x in corners], dim=1)
    return torch.cat([crops, crops.flip(-1)], dim=1)
