"""Turns a raw image into a prepared one, and a prepared label back into a raw one.

The order is that of PocketNet's reference pipeline: crop, resample, normalise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from lightning_pocket.data.grid import Grid, triple
from lightning_pocket.data.images import Volume
from lightning_pocket.data.layouts.base import class_values, counted_labels, ignored_value
from lightning_pocket.data.normalize import METHODS, Normalization, normalize
from lightning_pocket.data.resample import Interpolation, resample_image, resample_label, resampled_grid
from lightning_pocket.data.spacing import SpacingName, common_spacing
from lightning_pocket.errors import PocketError

Size = tuple[int, int, int]
#: Value in prepared labels of the voxels that do not count; classes are numbered from 0.
IGNORE_INDEX = 255
NormalizationName = Literal["auto", "zscore", "nonzero_zscore", "foreground_zscore", "window", "none"]


@dataclass(frozen=True)
class Preprocessing:
    """How raw images are prepared, as a user asks for it.

    Args:
        spacing: Voxel size in mm along (D, H, W); "median" of the data set; "median_coarse_90", the same but for the
            axis whose median is the coarsest, which takes the 90th percentile (PocketNet's text for LiTS);
            "median_anisotropic_90", that only where the coarsest median is more than three times the finest
            (PocketNet's code); or "native" to resample nothing.
        normalization: "zscore" (per image and channel), "nonzero_zscore" (the same over voxels that are not 0, which
            stay 0), "foreground_zscore" (clip to the 0.5 and 99.5 percentiles of the labelled foreground of the whole
            data set, then subtract its mean and divide by its std), "window" (clip to ``window`` and map it to
            [0, 1]), "none", or "auto": "foreground_zscore" for a channel named CT, else "zscore".
        window: Lowest and highest intensity of "window".
        crop: "nonzero" cuts away the border where every channel is 0.
        image_interpolation: Cubic "bspline" or "linear"; labels are always interpolated linearly, class by class.
    """

    spacing: SpacingName | list[float] = "median"
    normalization: NormalizationName = "auto"
    window: list[float] | None = None
    crop: Literal["none", "nonzero"] = "none"
    image_interpolation: Interpolation = "bspline"

    def __post_init__(self) -> None:
        if isinstance(self.spacing, list) and (len(self.spacing) != 3 or min(self.spacing) <= 0):
            raise PocketError(f"spacing: is {self.spacing}, expected three positive numbers in mm along D, H and W.")
        if (self.normalization == "window") != (self.window is not None):
            raise PocketError(
                f"window: is {self.window} with normalization {self.normalization}; give [low, high] with "
                "normalization window, and nothing otherwise."
            )
        if self.window is not None and (len(self.window) != 2 or self.window[0] >= self.window[1]):
            raise PocketError(f"window: is {self.window}, expected [low, high] with low below high.")


@dataclass(frozen=True)
class Resolved:
    """The same in plain numbers, all that a lone image needs.

    Args:
        spacing: Voxel size in mm along (D, H, W) of prepared images; None keeps that of each image.
        normalization: One per channel.
        crop: As in ``Preprocessing``.
        image_interpolation: As in ``Preprocessing``.
        channels: Names of the channels.
        label_values: Raw label value of each class index, the lowest of a merged class: what a prediction is written
            with.
        ignored_value: Raw label value of the voxels that do not count; they become ``IGNORE_INDEX``.
        merged_values: The other raw label values of merged classes, each with its class index.
    """

    spacing: tuple[float, float, float] | None
    normalization: tuple[Normalization, ...]
    crop: Literal["none", "nonzero"]
    image_interpolation: Interpolation
    channels: tuple[str, ...]
    label_values: tuple[int, ...]
    ignored_value: int | None = None
    merged_values: tuple[tuple[int, int], ...] = ()

    @property
    def ignore_index(self) -> int | None:
        """Value of the voxels that do not count in a prepared label; None where all of them count."""
        return None if self.ignored_value is None else IGNORE_INDEX

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, fit for JSON and checkpoints."""
        data = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        merged = [list(pair) for pair in self.merged_values]
        return data | {"normalization": [entry.to_dict() for entry in self.normalization], "merged_values": merged}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Resolved:
        """Undo ``to_dict``."""
        return cls(
            spacing=triple(data["spacing"]) if data["spacing"] else None,
            normalization=tuple(Normalization(**entry) for entry in data["normalization"]),
            crop=data["crop"],
            image_interpolation=data["image_interpolation"],
            channels=tuple(data["channels"]),
            label_values=tuple(data["label_values"]),
            ignored_value=data.get("ignored_value"),
            merged_values=tuple((value, index) for value, index in data.get("merged_values", ())),
        )


@dataclass(frozen=True)
class Geometry:
    """Where a prepared image came from.

    Args:
        source: Grid of the raw image.
        crop: First voxel along (D, H, W) of the part that was kept.
        cropped_shape: Voxels along (D, H, W) of that part.
        prepared: Grid of the prepared image.
    """

    source: Grid
    crop: Size
    cropped_shape: Size
    prepared: Grid

    @property
    def cropped(self) -> Grid:
        """Grid of the part of the raw image that was kept."""
        return replace(self.source, shape=self.cropped_shape, origin=self.source.position(self.crop))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain types, fit for JSON."""
        grids = {"source": self.source.to_dict(), "prepared": self.prepared.to_dict()}
        return grids | {"crop": list(self.crop), "cropped_shape": list(self.cropped_shape)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Geometry:
        """Undo ``to_dict``."""
        source, prepared = Grid.from_dict(data["source"]), Grid.from_dict(data["prepared"])
        (d, h, w), (depth, height, width) = data["crop"], data["cropped_shape"]
        return cls(source, (d, h, w), (depth, height, width), prepared)


def resolve(
    settings: Preprocessing, fingerprint: Mapping[str, Any], channels: Sequence[str], labels: Mapping[int, str]
) -> Resolved:
    """Replace every name in the settings by numbers of the data set.

    Args:
        settings: What the user asks for.
        fingerprint: From ``fingerprint.summarize``.
        channels: Names of the channels.
        labels: Name of the class of each raw label value; classes are numbered in the order of their lowest values,
            without the one that does not count.

    Returns:
        The resolved settings.
    """
    spacing = common_spacing(settings.spacing, fingerprint)
    normalization = []
    for channel in channels:
        name = settings.normalization
        if name == "auto":
            name = "foreground_zscore" if channel.upper() == "CT" else "zscore"
        foreground = fingerprint["channels"][channel]["foreground"]
        normalization.append(METHODS[name](foreground, settings.window))
    classes = list(class_values(counted_labels(labels)).values())
    return Resolved(
        spacing=triple(spacing) if spacing else None,
        normalization=tuple(normalization),
        crop=settings.crop,
        image_interpolation=settings.image_interpolation,
        channels=tuple(channels),
        label_values=tuple(values[0] for values in classes),
        ignored_value=ignored_value(labels),
        merged_values=tuple((value, index) for index, values in enumerate(classes) for value in values[1:]),
    )


def apply(
    volume: Volume, label: np.ndarray | None, resolved: Resolved
) -> tuple[np.ndarray, np.ndarray | None, Geometry]:
    """Prepare one image, with or without its label.

    Args:
        volume: Raw image, array ``(C, D, H, W)``.
        label: Raw label values ``(D, H, W)`` on the same grid.
        resolved: What to do.

    Returns:
        Image ``(C, D', H', W')`` float32; label ``(D', H', W')`` uint8 class indices, ``IGNORE_INDEX`` where voxels
        do not count, or None; and where they lie.

    Raises:
        PocketError: If the number of channels is not the one that was resolved.
    """
    if len(volume.array) != len(resolved.channels):
        names = ", ".join(resolved.channels)
        raise PocketError(f"image: has {len(volume.array)} channels, expected {len(resolved.channels)} ({names}).")
    start, shape = (0, 0, 0), volume.grid.shape
    if resolved.crop == "nonzero":
        start, shape = _nonzero_box(volume.array)
    kept = Geometry(volume.grid, start, shape, volume.grid).cropped
    geometry = Geometry(volume.grid, start, shape, resampled_grid(kept, resolved.spacing))
    box = _slices(start, shape)
    image = np.empty((len(volume.array), *geometry.prepared.shape), np.float32)
    for channel, (voxels, normalization) in enumerate(zip(volume.array[:, *box], resolved.normalization, strict=True)):
        resampled = resample_image(voxels, kept, geometry.prepared, resolved.image_interpolation)
        inside = None
        if normalization.method == "nonzero_zscore":  # splines ring around 0: ask the raw voxels what is inside
            inside = resample_label((voxels != 0).astype(np.uint8), kept, geometry.prepared) > 0
        image[channel] = normalize(resampled, normalization, inside)
    prepared = None
    if label is not None:
        prepared = resample_label(class_indices(label[box], resolved), kept, geometry.prepared)
    return image, prepared, geometry


def class_indices(label: np.ndarray, resolved: Resolved) -> np.ndarray:
    """Return the class index of each voxel.

    Args:
        label: Raw label values, all of them declared.
        resolved: Which value each class has.

    Returns:
        uint8 of the same shape; ``IGNORE_INDEX`` where voxels do not count.
    """
    classes = np.searchsorted(resolved.label_values, label).astype(np.uint8)
    for value, index in resolved.merged_values:
        classes[label == value] = index
    if resolved.ignored_value is not None:
        classes[label == resolved.ignored_value] = IGNORE_INDEX
    return classes


def restore(label: np.ndarray, geometry: Geometry) -> Volume:
    """Bring a label on the prepared grid back to the grid of the raw image.

    Args:
        label: Class indices ``(D', H', W')``, such as a prediction.
        geometry: What ``apply`` returned.

    Returns:
        Class indices ``(D, H, W)`` uint8 on the raw grid in LPS orientation, 0 where the image was cropped away;
        ``images.write_volume`` writes it with the axis order of the raw file.
    """
    inner = resample_label(label.astype(np.uint8, copy=False), geometry.prepared, geometry.cropped)
    whole = np.zeros(geometry.source.shape, np.uint8)
    whole[_slices(geometry.crop, geometry.cropped_shape)] = inner
    return Volume(whole, geometry.source)


def restore_probability(probability: np.ndarray, geometry: Geometry, outside: float) -> Volume:
    """Bring the probability of one class on the prepared grid back to the grid of the raw image.

    Args:
        probability: ``(D', H', W')`` float32.
        geometry: What ``apply`` returned.
        outside: Probability where the image was cropped away.

    Returns:
        ``(D, H, W)`` float32 in LPS orientation, interpolated linearly.
    """
    whole = np.full(geometry.source.shape, outside, np.float32)
    inner = resample_image(probability, geometry.prepared, geometry.cropped, "linear")
    whole[_slices(geometry.crop, geometry.cropped_shape)] = inner
    return Volume(whole, geometry.source)


def _slices(start: Size, shape: Size) -> tuple[slice, ...]:
    return tuple(slice(first, first + count) for first, count in zip(start, shape, strict=True))


def _nonzero_box(image: np.ndarray) -> tuple[Size, Size]:
    """Return first voxel and shape of the smallest box outside of which every channel is 0."""
    occupied = (image != 0).any(axis=0)
    if not occupied.any():
        return (0, 0, 0), image.shape[1:]
    along = [np.flatnonzero(occupied.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    (d0, d1), (h0, h1), (w0, w1) = ((int(found[0]), int(found[-1])) for found in along)
    return (d0, h0, w0), (d1 - d0 + 1, h1 - h0 + 1, w1 - w0 + 1)
