"""What turns a raw 2D image into a prepared one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from lightning_pocket.data.normalize import Normalization, normalize
from lightning_pocket.errors import PocketError

from .read import Picture

#: Rows and columns where nothing else is asked for (PocketNet, section II-B, COVIDx8B).
DEFAULT_SIZE = (256, 256)
_GREY = np.array([19595, 38470, 7471], np.uint64)  # BT.601's 0.299, 0.587 and 0.114, times 65536
_CHANNELS = {"grey": ["grey"], "rgb": ["red", "green", "blue"]}


@dataclass(frozen=True)
class ImagePreprocessing:
    """How 2D images are prepared: one colour space, one size, one scale of intensities, in this order.

    Args:
        size: Rows and columns. Images are stretched to it, their aspect ratio is not kept, as PocketNet's authors did.
        color: ``grey`` weights red, green and blue by ITU-R BT.601; ``rgb`` keeps them, and repeats grey three times.
        normalization: ``zscore`` uses mean and standard deviation over all pixels and channels of the resized image;
            ``unit`` divides by the largest value that the file's type can hold; ``none`` keeps the intensities.
        mean: Subtracted from each channel, usually its mean over the training images; None for nothing. With ``unit``
            only, in the range from 0 to 1.
        std: What each channel is divided by after that; given with ``mean``.
        shorter_side: Pixels that the shorter side of an image gets, its aspect ratio kept; then ``size`` is cut out of
            its middle. None stretches images to ``size``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    size: tuple[int, ...] = DEFAULT_SIZE
    color: Literal["grey", "rgb"] = "grey"
    normalization: Literal["zscore", "unit", "none"] = "zscore"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shorter_side: int | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise PocketError(f"size: is {list(self.size)}, expected two positive numbers of pixels such as [256,256].")
        if (self.mean, self.std) != (None, None):
            self._check_statistics()
        if self.shorter_side is not None and self.shorter_side < max(self.size):
            raise PocketError(
                f"shorter_side: is {self.shorter_side}, expected at least {max(self.size)}, the size that is cut out."
            )

    def _check_statistics(self) -> None:
        channels = len(self.channels)
        for name, values in (("mean", self.mean), ("std", self.std)):
            lowest = 0.0 if name == "std" else -np.inf
            if values is None or len(values) != channels or not all(lowest < value < np.inf for value in values):
                expected = f"{channels} {'numbers' if channels > 1 else 'number'}{' above 0' if name == 'std' else ''}"
                raise PocketError(
                    f"{name}: is {None if values is None else list(values)}, expected {expected}, one per channel "
                    f"({', '.join(self.channels)}); give mean and std together."
                )
        if self.normalization != "unit":
            raise PocketError(f"mean: is given with normalization {self.normalization}; it goes with unit.")

    @property
    def channels(self) -> list[str]:
        """Names of the channels of a prepared image."""
        return list(_CHANNELS[self.color])

    def accepts(self, picture: Picture) -> bool:
        """Tell whether an image can be prepared so: ``unit`` needs a type of limited range."""
        return self.normalization != "unit" or picture.highest is not None

    def apply(self, picture: Picture) -> np.ndarray:
        """Prepare an image.

        Args:
            picture: The raw image, for which :meth:`accepts` holds.

        Returns:
            ``(C, H, W)`` float32. With ``zscore`` an image without contrast becomes 0 everywhere.

        Raises:
            PocketError: If the range of its type is needed but unknown.
        """
        if not self.accepts(picture):
            raise PocketError(f"normalization: unit needs images of 8 or 16 bits, not {picture.pixels.dtype}.")
        planes = self.planes(picture)
        if self.shorter_side is not None:
            planes = planes[(slice(None), *middle(planes.shape[1:], self.size))]
        return self.scale(planes, picture.highest)

    def apply_to(self, picture: Picture, box: Sequence[int]) -> np.ndarray:
        """Prepare a rectangle of an image: it becomes the whole prepared image, whatever ``shorter_side``.

        Args:
            picture: The raw image, for which :meth:`accepts` holds.
            box: ``(left, top, right, bottom)`` in pixels.

        Returns:
            ``(C, H, W)`` float32.
        """
        left, top, right, bottom = box
        part = replace(picture, pixels=picture.pixels[top:bottom, left:right])
        return self.scale(np.stack([resize_plane(plane, self.size) for plane in self._planes(part)]), picture.highest)

    def planes(self, picture: Picture) -> np.ndarray:
        """Return the channels of an image, resized: to ``size``, or with ``shorter_side`` without cutting them yet.

        Args:
            picture: The raw image.

        Returns:
            ``(C, H, W)`` float32.
        """
        shape = tuple(self.size)
        if self.shorter_side is not None:
            sides = picture.pixels.shape[:2]
            shape = tuple(round(side * self.shorter_side / min(sides)) for side in sides)
        return np.stack([resize_plane(plane, shape) for plane in self._planes(picture)])

    def scale(self, planes: np.ndarray, highest: float | None) -> np.ndarray:
        """Bring intensities to the scale of prepared images.

        Args:
            planes: ``(C, H, W)``.
            highest: Largest value that the type of the file can hold; needed for ``unit``.

        Returns:
            ``(C, H, W)`` float32.
        """
        if self.normalization != "unit":
            return normalize(planes, Normalization(self.normalization))
        scaled = normalize(planes, Normalization("clip_zscore", low=0.0, high=highest, mean=0.0, std=highest))
        if self.mean is not None and self.std is not None:
            wide = (np.array(values, np.float32)[:, None, None] for values in (self.mean, self.std))
            mean, std = wide
            scaled = (scaled - mean) / std
        return scaled

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain types, fit for a checkpoint or JSON."""
        data = {
            "kind": "images",
            "size": list(self.size),
            "color": self.color,
            "normalization": self.normalization,
        }
        given = {"mean": self.mean, "std": self.std, "shorter_side": self.shorter_side}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
        return data | {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImagePreprocessing:
        """Return the settings that :meth:`to_dict` gave."""
        statistics = {name: tuple(data[name]) for name in ("mean", "std") if data.get(name) is not None}
        side = data.get("shorter_side")
        return cls(tuple(data["size"]), data["color"], data["normalization"], **statistics, shorter_side=side)

    def _planes(self, picture: Picture) -> list[np.ndarray]:
        pixels = picture.pixels
        if self.color == "rgb":
            return list(np.moveaxis(pixels, -1, 0)) if pixels.ndim == 3 else [pixels] * 3
        if pixels.ndim == 3:
            # The whole numbers of Pillow, which has no conversion of 16 bits.
            pixels = (pixels.astype(np.uint64) @ _GREY + 0x8000) >> 16
        return [pixels]


def middle(shape: Sequence[int], size: Sequence[int]) -> tuple[slice, slice]:
    """Return rows and columns of the middle of an image.

    Args:
        shape: Rows and columns of the image.
        size: Rows and columns of its middle, not more.
    """
    top, left = ((whole - part) // 2 for whole, part in zip(shape, size, strict=True))
    return slice(top, top + size[0]), slice(left, left + size[1])


def resize_plane(plane: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resize by linear interpolation; where it shrinks, over all pixels that it covers.

    Args:
        plane: ``(H, W)`` numbers.
        shape: Rows and columns of the result.

    Returns:
        ``(H', W')`` float32.
    """
    from PIL import Image

    height, width = shape
    if plane.shape == (height, width):
        return plane.astype(np.float32)
    # As floats: 8 bits would be rounded, and 16 bits cut.
    resized = Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_label(label: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Resize a label map by nearest neighbours; the two cover the same area, border to border.

    Args:
        label: ``(H, W)`` uint8 class indices.
        shape: Rows and columns of the result.

    Returns:
        Class indices ``(H', W')`` uint8.
    """
    from PIL import Image

    height, width = shape
    if label.shape == (height, width):
        return label
    return np.asarray(Image.fromarray(label).resize((width, height), Image.Resampling.NEAREST))
