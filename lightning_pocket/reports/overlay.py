"""Classes drawn over a slice: an outline, a light fill, and one colour for each class; or contours alone."""

from __future__ import annotations

import numpy as np

#: Colours that people with colour-blindness tell apart, and that show on grey: the palette of Okabe and Ito,
#: https://jfly.uni-koeln.de/color, without its black.
OKABE_ITO = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
FILL = 0.25
_OUTLINE_PX = 2
#: Colours and widths of the contours of truth and prediction, as in Lighter U-Net, Figure 2. The widths tell them apart
#: without colours, and leave both to be seen where they coincide.
TRUTH, TRUTH_PX = (235, 40, 40), 4
PREDICTION, PREDICTION_PX = (60, 225, 60), 2


def class_colour(k: int) -> tuple[int, int, int]:
    """Return the colour (red, green, blue) of class ``k``, always the same; the eighth class has that of the first."""
    return OKABE_ITO[(k - 1) % len(OKABE_ITO)]


def draw_overlay(pixels: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Draw the classes over a picture.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        label: ``(H, W)`` class of each pixel, 0 is not drawn.

    Returns:
        ``(H, W, 3)`` uint8: outlines in the full colour of their class, inside them a light fill.
    """
    drawn = pixels.astype(np.float32)
    for k in np.unique(label[label > 0]):
        region = label == k
        colour = np.asarray(class_colour(int(k)), dtype=np.float32)
        drawn[region] = (1 - FILL) * drawn[region] + FILL * colour
        drawn[region & ~_erode(region, _OUTLINE_PX, outside=True)] = colour
    return drawn.round().astype(np.uint8)


def draw_contours(pixels: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Draw the borders of all classes over a picture: those of the truth red, those of the prediction green above them.

    They are closed where the picture cuts a region: without a fill nothing else would tell on which side the region is.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        truth: ``(H, W)`` class of each pixel, 0 has no border of its own.
        predicted: ``(H, W)`` class of each pixel.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    drawn = pixels.copy()
    for label, colour, width in ((truth, TRUTH, TRUTH_PX), (predicted, PREDICTION, PREDICTION_PX)):
        for k in np.unique(label[label > 0]):
            region = label == k
            drawn[region & ~_erode(region, width, outside=False)] = colour
    return drawn


def resize(pixels: np.ndarray, height: int, width: int, smooth: bool) -> np.ndarray:
    """Resample a picture.

    Args:
        pixels: ``(H, W)`` uint8.
        height: Rows of the result.
        width: Columns of the result.
        smooth: Interpolate; classes must not be.

    Returns:
        ``(height, width)`` uint8.
    """
    from PIL import Image

    method = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(pixels).resize((width, height), method))


def _erode(region: np.ndarray, times: int, outside: bool) -> np.ndarray:
    """Remove the outermost pixels; at the edge of the picture only where what lies outside counts as no region."""
    for _ in range(times):
        padded = np.pad(region, 1, constant_values=outside)
        region = region & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region
