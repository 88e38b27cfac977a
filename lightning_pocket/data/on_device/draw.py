"""Draw the parameters of TorchIO transforms without applying them.

The ranges are those of the TorchIO objects and their own methods draw, so there is no second description that could
drift from the first. Even the order of the draws is TorchIO's: from one seed, a sample gets the same parameters here
as in a loader that applies the transforms itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torchio as tio

from lightning_pocket.data.affine2d import RandomAffine2D
from lightning_pocket.data.augment import RandomAxisFlip, RandomVoxelBlur
from lightning_pocket.errors import PocketError

from .steps import Affine, BiasField, Blur, Elastic, Flip, Gamma, Noise, Recipe, Step, Triplet, Warp


@dataclass(frozen=True)
class Sample:
    """What drawing must know of a sample: voxel size in mm along D, H, W, and the number of channels."""

    spacing: Triplet
    channels: int


class RecipeDrawer:
    """Draws the recipes of samples.

    Args:
        transforms: TorchIO transforms, in order.

    Raises:
        PocketError: If a transform, or one of its settings, is not known on the device.
    """

    def __init__(self, transforms: Sequence[tio.Transform]) -> None:
        for transform in transforms:
            _check(transform)
        self.groups = [
            (is_warp, list(members)) for is_warp, members in groupby(transforms, lambda t: type(t) in _DRAW_WARP)
        ]

    def draw(self, spacing: Sequence[float], channels: int) -> Recipe:
        """Draw from torch's CPU generator.

        Args:
            spacing: Voxel size in mm along D, H, W.
            channels: Channels of the image.

        Returns:
            What happens to one sample.
        """
        sample = Sample((spacing[0], spacing[1], spacing[2]), channels)
        _spend()  # tio.Compose asks whether it applies
        steps: list[Step | None] = []
        for is_warp, members in self.groups:
            if is_warp:
                parts = [_draw_parts(transform, sample) for transform in members]
                flat = tuple(part for found in parts for part in found)
                steps.append(Warp(flat) if any(flat) else None)
            else:
                steps.extend(_DRAW[type(t)](t, sample) if _happens(t) else None for t in members)
        return Recipe(steps)


def _happens(transform: tio.Transform) -> bool:
    return bool(torch.rand(1).item() <= transform.probability)


def _spend() -> None:
    """Draw the number with which TorchIO's fixed transform, into which a random one turns, asks whether it applies."""
    torch.rand(1)


def _draw_parts(transform: tio.Transform, sample: Sample) -> list[Affine | Elastic | None]:
    if not _happens(transform):
        return [None] * (2 if type(transform) is tio.RandomAffineElasticDeformation else 1)
    parts = _DRAW_WARP[type(transform)](transform, sample)
    _spend()
    return parts


def _affine(transform: Any, sample: Sample) -> list[Affine | Elastic | None]:
    drawn = transform.get_params(transform.scales, transform.degrees, transform.translation, transform.isotropic)
    scales, degrees, translation = ((float(x), float(y), float(z)) for x, y, z in drawn)
    pads = transform.default_pad_value, transform.default_pad_label
    return [Affine(scales, degrees, translation, sample.spacing, transform.center == "image", *pads)]


def _affine_2d(transform: Any, sample: Sample) -> list[Affine | Elastic | None]:
    return [transform.draw().step(sample.spacing)]


def _elastic(transform: Any, sample: Sample) -> list[Affine | Elastic | None]:
    numbers, limits = transform.num_control_points, transform.max_displacement
    points = transform.get_params(numbers, limits, transform.num_locked_borders)
    return [Elastic(points, sample.spacing) if any(limits) else None]


def _affine_elastic(transform: Any, sample: Sample) -> list[Affine | Elastic | None]:
    parts = [*_affine(transform.random_affine, sample), *_elastic(transform.random_elastic, sample)]
    return parts if transform.affine_first else parts[::-1]


def _flip(transform: Any, _: Sample) -> Flip | None:
    drawn = transform.get_params(transform.flip_probability)
    axes = tuple(axis for axis in range(3) if drawn[axis] and axis in transform.axes)
    if not axes:
        return None
    _spend()
    return Flip(axes)


def _axis_flip(transform: Any, _: Sample) -> Flip:
    axis = transform.axes[int(torch.randint(len(transform.axes), (1,)))]
    _spend()
    return Flip((axis,))


def _noise(transform: Any, _: Sample) -> Noise:
    mean, std, seed = transform.get_params(transform.mean_range, transform.std_range)
    _spend()
    return Noise(mean, std, seed)


def _blur(transform: Any, sample: Sample) -> Blur:
    std = transform.get_params(transform.std_ranges)
    _spend()
    return Blur((std[0] / sample.spacing[0], std[1] / sample.spacing[1], std[2] / sample.spacing[2]))


def _voxel_blur(transform: Any, _: Sample) -> Blur:
    std = transform.get_params(transform.std_ranges)
    _spend()
    return Blur(std)


def _gamma(transform: Any, sample: Sample) -> Gamma:
    powers = tuple(float(transform.get_params(transform.log_gamma_range)) for _ in range(sample.channels))
    _spend()
    return Gamma(powers)


def _bias(transform: Any, _: Sample) -> BiasField:
    coefficients = tuple(transform.get_params(transform.order, transform.coefficients_range))
    _spend()
    return BiasField(coefficients, transform.order)


_DRAW: dict[type, Callable[[Any, Sample], Step | None]] = {
    RandomAxisFlip: _axis_flip,
    RandomVoxelBlur: _voxel_blur,
    tio.RandomBiasField: _bias,
    tio.RandomBlur: _blur,
    tio.RandomFlip: _flip,
    tio.RandomGamma: _gamma,
    tio.RandomNoise: _noise,
}
_DRAW_WARP: dict[type, Callable[[Any, Sample], list[Affine | Elastic | None]]] = {
    RandomAffine2D: _affine_2d,
    tio.RandomAffine: _affine,
    tio.RandomAffineElasticDeformation: _affine_elastic,
    tio.RandomElasticDeformation: _elastic,
}


def _check(transform: tio.Transform) -> None:
    """Refuse what would come out differently on the device."""
    key, name = "data.init_args.augment_on", type(transform).__name__
    remedy = "Leave it out, or set data.init_args.augment_on: loader."
    if type(transform) not in _DRAW | _DRAW_WARP:
        known = ", ".join(sorted(kind.__name__ for kind in _DRAW | _DRAW_WARP))
        raise PocketError(f"{key}: {name} cannot be done on the device, which knows {known}. {remedy}")
    if transform.include is not None or transform.exclude is not None or transform.keep is not None:
        raise PocketError(f"{key}: {name} has include, exclude or keep, which the device does not know. {remedy}")
    if isinstance(transform, tio.RandomFlip) and any(isinstance(axis, str) for axis in transform.axes):
        raise PocketError(f"{key}: RandomFlip has axes {transform.axes}, expected numbers 0 (D), 1 (H), 2 (W).")
    for part in getattr(transform, "random_affine", transform), getattr(transform, "random_elastic", transform):
        _check_resampling(part, key, remedy)


def _check_resampling(transform: Any, key: str, remedy: str) -> None:
    name = type(transform).__name__
    kinds = getattr(transform, "image_interpolation", "linear"), getattr(transform, "label_interpolation", "nearest")
    if kinds != ("linear", "nearest"):
        found = f"interpolates images {kinds[0]} and labels {kinds[1]}"
        raise PocketError(f"{key}: {name} {found}; the device only linear and nearest. {remedy}")
    if getattr(transform, "default_pad_value", None) == "otsu":
        raise PocketError(f"{key}: {name} pads with otsu; the device only with minimum, mean or a number. {remedy}")
