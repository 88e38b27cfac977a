"""A cached image with masks, on the pixels of its own file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightning_pocket.storage import load_compressed, partial_path

from .coding import MaskCoding
from .preprocess import resize_label

_PALETTE_COLOURS = 256


class ImageOriginal:
    """What a prediction on the prepared pixels is judged by: see ``types.Original``.

    Not a dataclass: Lightning would take it apart when it moves a batch to a device.

    Args:
        truth: File of the mask in the size of the image.
        shape: Rows and columns of the image.
        coding: What values masks are written with.
        pixel_mm: Height and width of a pixel in mm; None where that is not known of every image of the data set.
    """

    suffix = ".png"

    def __init__(
        self, truth: Path, shape: tuple[int, int], coding: MaskCoding, pixel_mm: tuple[float, float] | None
    ) -> None:
        self._truth = truth
        self._shape = shape
        self._coding = coding
        self._pixel_mm = pixel_mm

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Height and width of a pixel of the image in mm; None where distances are counted in pixels."""
        return self._pixel_mm

    def label(self) -> np.ndarray:
        """Return the mask ``(H, W)`` in the size of the image, uint8 class indices."""
        return load_compressed(self._truth)

    def restore(self, predicted: np.ndarray) -> np.ndarray:
        """Bring class indices ``(H', W')`` from the prepared to the image's own size, by nearest neighbours."""
        return resize_label(predicted.astype(np.uint8, copy=False), self._shape)

    def write(self, predicted: np.ndarray, path: Path) -> None:
        """Write class indices ``(H', W')`` of the prepared image as a PNG file in the size of the image."""
        write_mask(path, self.restore(predicted), self._coding)


def truth_file(folder: Path, row: int) -> Path:
    """Return the file of the mask of image number ``row`` in the size of the image."""
    return folder / f"{row:08d}.npz"


def write_mask(path: Path, label: np.ndarray, coding: MaskCoding) -> None:
    """Write class indices as a PNG file with the values of the masks of the training.

    Grey values are those of the masks, such as 0 and 255; colours become a palette, whose indices are the classes.

    Args:
        path: File to write, whole or not at all.
        label: ``(H, W)`` uint8 class indices.
        coding: What value or colour each class has.
    """
    from PIL import Image

    if coding.kind == "colours":
        image = Image.fromarray(label, "P")
        palette = np.zeros((_PALETTE_COLOURS, 3), np.uint8)
        for index, colour in enumerate(coding.label_values):
            palette[index] = [colour >> 16, (colour >> 8) & 255, colour & 255]
        image.putpalette(palette.tobytes())
    else:
        values = coding.encode(label)
        image = Image.fromarray(values.astype(np.uint8 if values.max(initial=0) < _PALETTE_COLOURS else np.uint16))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    image.save(partial, "PNG")
    partial.replace(path)


def write_probability(path: Path, probability: np.ndarray) -> None:
    """Write the probability of a class as a PNG file of 16 bits, 65535 for 1.

    Args:
        path: File to write, whole or not at all.
        probability: ``(H, W)`` in [0, 1].
    """
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    Image.fromarray(np.round(np.clip(probability, 0, 1) * 65535).astype(np.uint16)).save(partial, "PNG")
    partial.replace(path)
