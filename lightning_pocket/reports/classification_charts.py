"""Charts of classifications as inline SVG: ROC curves, confusion matrix, reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import Calibration, area_under_roc, roc_curve

from . import svg
from .svg import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Scale

_TICKS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
_SIDE = WIDTH - LEFT - RIGHT  # pixels of a plot from 0 to 1 on both axes
_LETTER = 7.5  # mean width of a letter of a tick label
_LONGEST = 20  # letters of a class beside the matrix
_FAINTEST, _STRONGEST = 0.04, 0.45  # so that the text on a cell can be read in light and dark
_ROOMY = 56  # pixels of a cell that has room for a percentage too


def roc_chart(series: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, order: Sequence[str] = ()) -> str:
    """Draw ROC curves, with the area under each in the legend and the line of chance.

    Args:
        series: By name: ``(N,)`` scores, larger meaning more likely positive, and ``(N,)`` bool, which are positive.
        title: What the chart shows.
        order: Names of all runs of the page, which have the same lines in each chart.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is no curve to draw, or one has no positive or no negative image.
    """
    _need(series, title)
    names = [f"{name}: AUC {area_under_roc(*values):.3f}" for name, values in series.items()]
    places = svg.indices(list(series), order)
    legend, body, x_scale, y_scale = _square(names, places, ("false positive rate", "true positive rate"), marks=False)
    for index, (score, positive) in zip(places, series.values(), strict=True):
        rates = zip(*roc_curve(score, positive), strict=True)
        # Thousands of images make thousands of corners, most of them within a tenth of a pixel.
        corners = dict.fromkeys((round(x_scale(x), 1), round(y_scale(y), 1)) for x, y in rates)
        body += svg.line(index, corners)
    said = f"True positive rate against false positive rate. {'; '.join(names)}."
    return svg.document(title, said, y_scale.start + BOTTOM, legend + _plot(body, x_scale, y_scale))


def reliability_chart(series: Mapping[str, Calibration], title: str, order: Sequence[str] = ()) -> str:
    """Draw how often predictions are right against how sure they were, with the calibration error in the legend.

    Args:
        series: What ``metrics.calibration`` returned, by name.
        title: What the chart shows.
        order: Names of all runs of the page, which have the same marks in each chart.

    Returns:
        The ``<svg>`` element. On the diagonal confidence and accuracy agree; below it predictions are too sure.

    Raises:
        PocketError: If there is nothing to draw.
    """
    _need(series, title)
    names = [f"{name}: ECE {calibrated.error:.3f}" for name, calibrated in series.items()]
    places = svg.indices(list(series), order)
    legend, body, x_scale, y_scale = _square(names, places, ("confidence", "accuracy"), marks=True)
    for index, (name, calibrated) in zip(places, series.items(), strict=True):
        bins = zip(calibrated.count, calibrated.confidence, calibrated.accuracy, strict=True)
        filled = [(int(n), float(x), float(y)) for n, x, y in bins if n]
        body += svg.line(index, [(x_scale(x), y_scale(y)) for _, x, y in filled])
        body += "".join(
            svg.marker(index, x_scale(x), y_scale(y), f"{name}: {n} images, confidence {x:.3f}, accuracy {y:.3f}")
            for n, x, y in filled
        )
    said = f"Accuracy against confidence. {'; '.join(names)}."
    return svg.document(title, said, y_scale.start + BOTTOM, legend + _plot(body, x_scale, y_scale))


def confusion_chart(counts: np.ndarray, classes: Sequence[str], title: str) -> str:
    """Draw a confusion matrix; the darker a cell, the larger its share of the images of its true class.

    Args:
        counts: ``(K, K)`` images, rows are true classes and columns predicted ones.
        classes: Names of the K classes.
        title: What the chart shows.

    Returns:
        The ``<svg>`` element.

    Raises:
        PocketError: If there is not a row and a column for each class.
    """
    if counts.shape != (len(classes), len(classes)) or not len(classes):
        raise PocketError(
            f"chart {title!r}: found {counts.shape} counts for {len(classes)} classes; expected a square."
        )
    names = [svg.shorten(name, _LONGEST) for name in classes]
    left = 34 + _LETTER * max(map(len, names))
    cell = (WIDTH - RIGHT - left) / len(names)
    bottom = TOP + cell * len(names)
    fits = max(1, int(cell / _LETTER))
    body = svg.text(14, (TOP + bottom) / 2, "true class", rotate=True)
    body += svg.text((left + WIDTH - RIGHT) / 2, bottom + 40, "predicted class")
    for row, name in enumerate(names):
        body += svg.text(left - 8, TOP + cell * (row + 0.5) + 5, name, "end", css="tick")
        body += svg.text(left + cell * (row + 0.5), bottom + 18, svg.shorten(name, fits), css="tick")
        of_class = int(counts[row].sum())
        for column in range(len(names)):
            place = (left + cell * column, TOP + cell * row)
            said = _said(counts, classes, row, column)
            body += _cell(int(counts[row, column]), of_class, place, cell, said)
    right = f"{int(counts.trace())} of {int(counts.sum())} images are classified correctly"
    filled = [_said(counts, classes, row, column) for row, column in np.argwhere(counts)]
    return svg.document(title, f"{'; '.join([right, *filled])}.", bottom + BOTTOM, body)


def _said(counts: np.ndarray, classes: Sequence[str], row: int, column: int) -> str:
    """Return a cell in words."""
    return f"{classes[row]} taken for {classes[column]}: {counts[row, column]} of {int(counts[row].sum())}"


def _cell(count: int, of_class: int, place: tuple[float, float], side: float, said: str) -> str:
    share = count / of_class if of_class else 0.0
    x, y = place
    opacity = _FAINTEST + (_STRONGEST - _FAINTEST) * share
    box = (
        f'<g class="s0"><title>{escape(said)}</title><rect x="{x + 1:.1f}" y="{y + 1:.1f}" width="{side - 2:.1f}" '
        f'height="{side - 2:.1f}" fill="currentColor" fill-opacity="{opacity:.3f}"/></g>'
    )
    roomy = side >= _ROOMY and of_class > 0
    middle = x + side / 2, y + side / 2
    text = svg.text(middle[0], middle[1] + (-3 if roomy else 5), f"{count:,}")
    return box + text + (svg.text(middle[0], middle[1] + 17, f"{share:.1%}", css="tick") if roomy else "")


def _square(
    names: Sequence[str], places: Sequence[int], labels: tuple[str, str], marks: bool
) -> tuple[str, str, Scale, Scale]:
    """Return a legend, the axes of a plot from 0 to 1 with its diagonal, and its scales."""

    def sample(index: int, x: float, y: float) -> str:
        return svg.line(index, [(x, y), (x + 28, y)]) + (svg.marker(index, x + 14, y, "", 3.5) if marks else "")

    legend, top = svg.legend(names, sample, places)
    floor = top + TOP + _SIDE
    x_scale, y_scale = Scale(0, 1, LEFT, WIDTH - RIGHT), Scale(0, 1, floor, top + TOP)
    body = svg.x_axis(x_scale, _TICKS, labels[0], floor, top + TOP)
    body += svg.y_axis(y_scale, _TICKS, labels[1], LEFT, WIDTH - RIGHT)
    body += f'<line class="chance" x1="{LEFT}" y1="{floor}" x2="{WIDTH - RIGHT}" y2="{top + TOP}"/>'
    return legend, body, x_scale, y_scale


def _plot(body: str, x: Scale, y: Scale) -> str:
    return svg.plot((x.start, y.end, x.end, y.start), body, x, y)


def _need(series: Mapping[str, object], title: str) -> None:
    if not series:
        raise PocketError(f"chart {title!r}: there is nothing to draw.")
