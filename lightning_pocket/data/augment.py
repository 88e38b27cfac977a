"""Transforms that TorchIO lacks, and the bridge between arrays and TorchIO subjects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torchio as tio
from torch import Tensor
from torchio.transforms.augmentation import RandomTransform
from torchio.transforms.augmentation.intensity.random_blur import Blur
from typing_extensions import override


class RandomAxisFlip(RandomTransform, tio.SpatialTransform):
    """Flip one axis, drawn at random.

    ``tio.RandomFlip`` draws for each axis on its own, so that several axes may flip at once; PocketNet's authors
    flipped exactly one, with probability 0.15 in all (``p=0.15``).

    Args:
        axes: Spatial axes to draw from; 0, 1, 2 are D, H, W.
        **kwargs: See ``torchio.Transform``; ``p`` is the probability that anything is flipped.
    """

    def __init__(self, axes: Sequence[int] = (0, 1, 2), p: float = 1.0) -> None:
        super().__init__(p=p)
        self.axes = tuple(axes)

    @override
    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        axis = self.axes[int(torch.randint(len(self.axes), (1,)))]
        return tio.Flip(axes=axis)(subject)


class RandomVoxelBlur(tio.RandomBlur):
    """Gaussian blur with a standard deviation in voxels.

    ``tio.RandomBlur`` takes millimetres; the protocols state voxels, which differ along the axes of a thin volume.

    Args:
        std: Lowest and highest standard deviation in voxels; one value is drawn per axis.
        **kwargs: See ``torchio.Transform``.
    """

    def __init__(self, std: tuple[float, float] = (0.25, 0.75), p: float = 1.0) -> None:
        super().__init__(std=std, p=p)

    @override
    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        std = {
            name: tuple(np.multiply(self.get_params(self.std_ranges), image.spacing))
            for name, image in self.get_images_dict(subject).items()
        }
        return Blur(std=std)(subject)


def to_subject(image: Tensor, label: Tensor, spacing: Sequence[float], subject: str) -> tio.Subject:
    """Wrap a patch for TorchIO.

    Args:
        image: ``(C, D, H, W)`` float.
        label: ``(D, H, W)`` integers.
        spacing: Millimetres per voxel along D, H, W: affine transforms act in millimetres.
        subject: Identifier of the case.
    """
    affine = np.diag([*spacing, 1.0])
    return tio.Subject(
        image=tio.ScalarImage(tensor=image, affine=affine),
        label=tio.LabelMap(tensor=label[None], affine=affine),
        subject=subject,
    )
