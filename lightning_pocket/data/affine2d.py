"""Affine transforms of 2D images with shear, which TorchIO lacks, in one resampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchio as tio
from torch import Tensor
from torchio.transforms.augmentation import RandomTransform
from typing_extensions import override

from lightning_pocket.errors import PocketError

from .on_device.steps import Affine, Triplet, Warp
from .on_device.warp import warp

_STEEPEST = 45.0  # degrees: two shears of it leave no area


class Affine2D(tio.SpatialTransform):
    """Shear an image in its plane, rotate it, shift it, then scale it, all about its centre and in one resampling.

    Images are interpolated linearly and label maps by nearest neighbours, with ITK's conventions. The image is a volume
    ``(C, 1, H, W)`` of one slice.

    Args:
        scale: Factor along H and W; above 1 enlarges.
        degrees: Rotation in the plane.
        translation: Shift along H and W in mm; pixels of prepared 2D images count as 1 mm.
        shears: Angle in degrees by which lines along W lean towards H, and lines along H towards W.
        pad: What fills an image beyond its border: its ``minimum``, the ``mean`` of its border, or a number.
        **kwargs: See ``torchio.Transform``.
    """

    def __init__(
        self,
        scale: tuple[float, float] = (1.0, 1.0),
        degrees: float = 0.0,
        translation: tuple[float, float] = (0.0, 0.0),
        shears: tuple[float, float] = (0.0, 0.0),
        pad: str | float = "minimum",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scale = scale
        self.degrees = degrees
        self.translation = translation
        self.shears = shears
        self.pad = pad
        self.args_names = ["scale", "degrees", "translation", "shears", "pad"]

    def step(self, spacing: Triplet) -> Affine:
        """Return the same for images whose voxels have this size in mm along D, H, W."""
        return Affine(
            (1.0, *self.scale),
            (self.degrees, 0.0, 0.0),
            (0.0, *self.translation),
            spacing,
            pad=self.pad,
            shears=self.shears,
        )

    @override
    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        for image in self.get_images(subject):
            height, width = image.spacing[1], image.spacing[2]
            steps = [Warp((self.step((float(image.spacing[0]), float(height), float(width))),))]
            image.set_data(_warped(image.data, steps, is_label=isinstance(image, tio.LabelMap)))
        return subject


class RandomAffine2D(RandomTransform, tio.SpatialTransform):
    """Shear, rotate, shift and scale an image in its plane by random amounts, in one resampling; see ``Affine2D``.

    Args:
        scales: Lowest and highest factor; one is drawn for both axes.
        degrees: Lowest and highest rotation in degrees.
        translation: Lowest and highest shift in mm, drawn for each axis; pixels of prepared 2D images count as 1 mm.
        shears: Lowest and highest shear in degrees, between -45 and 45, drawn for each axis.
        stretch: Draw a factor for each axis, so that the aspect ratio changes too.
        default_pad_value: What fills an image beyond its border: its ``minimum``, the ``mean`` of its border, or a
            number. Label maps are filled with background.
        p: Probability that anything is done.

    Raises:
        PocketError: If a range is wrong.
    """

    def __init__(
        self,
        scales: tuple[float, float] = (0.9, 1.1),
        degrees: tuple[float, float] = (-10.0, 10.0),
        translation: tuple[float, float] = (0.0, 0.0),
        shears: tuple[float, float] = (0.0, 0.0),
        stretch: bool = False,
        default_pad_value: str | float = "minimum",
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        for name, values, low, high in (
            ("scales", scales, 0.0, float("inf")),
            ("degrees", degrees, -float("inf"), float("inf")),
            ("translation", translation, -float("inf"), float("inf")),
            ("shears", shears, -_STEEPEST, _STEEPEST),
        ):
            _check_range(name, values, low, high)
        if isinstance(default_pad_value, str) and default_pad_value not in ("minimum", "mean"):
            raise PocketError(
                f"RandomAffine2D.default_pad_value: found {default_pad_value}; expected minimum, mean or a number."
            )
        self.scales = scales
        self.degrees = degrees
        self.translation = translation
        self.shears = shears
        self.stretch = stretch
        self.default_pad_value = default_pad_value

    def draw(self) -> Affine2D:
        """Draw a transform from torch's generator."""
        numbers = torch.rand(7, dtype=torch.float64).tolist()
        height, width, degrees, *others = numbers
        first = _between(self.scales, height)
        scale = (first, _between(self.scales, width) if self.stretch else first)
        shift, lean = others[:2], others[2:]
        return Affine2D(
            scale,
            _between(self.degrees, degrees),
            (_between(self.translation, shift[0]), _between(self.translation, shift[1])),
            (_between(self.shears, lean[0]), _between(self.shears, lean[1])),
            self.default_pad_value,
        )

    @override
    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        return self.draw()(subject)


def _warped(data: Tensor, steps: Sequence[Warp], is_label: bool) -> Tensor:
    """Return the voxels ``(C, 1, H, W)`` of a transformed image."""
    if not is_label:
        moved = data[None].float().clone()
        warp(moved, None, steps)
        return moved[0]
    label = data.clone()
    warp(label[None, :1].float(), label, steps)
    return label


def _between(limits: tuple[float, float], fraction: float) -> float:
    return limits[0] + fraction * (limits[1] - limits[0])


def _check_range(name: str, values: Sequence[float], low: float, high: float) -> None:
    if len(values) != 2 or not low < values[0] <= values[1] < high:
        within = "" if high == float("inf") and low == -high else f" between {low:g} and {high:g}"
        raise PocketError(f"RandomAffine2D.{name}: found {list(values)}; expected two numbers, low and high,{within}.")
