"""What turns a raw 2D image into a prepared one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    """

    size: tuple[int, ...] = DEFAULT_SIZE
    color: Literal["grey", "rgb"] = "grey"
    normalization: Literal["zscore", "unit", "none"] = "zscore"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise PocketError(f"size: is {list(self.size)}, expected two positive numbers of pixels such as [256,256].")

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
        planes = np.stack([resize_plane(plane, self.size) for plane in self._planes(picture)])
        highest = picture.highest
        unit = Normalization("clip_zscore", low=0.0, high=highest, mean=0.0, std=highest)
        return normalize(planes, unit if self.normalization == "unit" else Normalization(self.normalization))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain types, fit for a checkpoint or JSON."""
        return {
            "kind": "images",
            "size": list(self.size),
            "color": self.color,
            "normalization": self.normalization,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ImagePreprocessing:
        """Return the settings that :meth:`to_dict` gave."""
        return cls(tuple(data["size"]), data["color"], data["normalization"])

    def _planes(self, picture: Picture) -> list[np.ndarray]:
        pixels = picture.pixels
        if self.color == "rgb":
            return list(np.moveaxis(pixels, -1, 0)) if pixels.ndim == 3 else [pixels] * 3
        if pixels.ndim == 3:
            # The whole numbers of Pillow, which has no conversion of 16 bits.
            pixels = (pixels.astype(np.uint64) @ _GREY + 0x8000) >> 16
        return [pixels]


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
