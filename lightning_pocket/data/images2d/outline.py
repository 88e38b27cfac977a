"""Fill the outline of an ellipse."""

from __future__ import annotations

import numpy as np

#: An outline is thinner than twice this many pixels; what is thicker is filled already.
_HALF_WIDTH = 6
_LEAST_POINTS = 6


def fill_outline(label: np.ndarray) -> np.ndarray:
    """Fill the outline of an ellipse; what is filled already stays as it is.

    A closed outline is filled as it is drawn. One that the border of the image, or a gap, leaves open is completed by
    the ellipse that fits its pixels best.

    Args:
        label: ``(H, W)`` uint8, 0 is background.

    Returns:
        The same, with the class of the outline inside it too.
    """
    from scipy import ndimage

    outline = label != 0
    if not outline.any() or ndimage.binary_erosion(outline, iterations=_HALF_WIDTH).any():
        return label
    filled = ndimage.binary_fill_holes(outline)
    if filled.sum() < 2 * outline.sum():  # specks inside a thick line are no ellipse
        filled = outline | _inside(outline)
    return np.where(filled, label.max(), 0).astype(np.uint8)


def _inside(outline: np.ndarray) -> np.ndarray:
    """Return the pixels inside the ellipse that fits an outline best, in the sense of algebraic distance.

    The direct least squares fit of Fitzgibbon, Pilu and Fisher (IEEE TPAMI 1999), in the stable form of Halir and
    Flusser (1998): the conic ``a x^2 + b x y + c y^2 + d x + e y + f = 0`` with ``4 a c - b^2 = 1``.
    """
    rows, columns = np.nonzero(outline)
    empty = np.zeros(outline.shape, bool)
    if len(rows) < _LEAST_POINTS:
        return empty
    centre = np.array([columns.mean(), rows.mean()])
    scale = max(float(np.ptp(columns)), float(np.ptp(rows)), 1.0)
    x, y = (columns - centre[0]) / scale, (rows - centre[1]) / scale
    quadratic, linear = np.stack([x * x, x * y, y * y], 1), np.stack([x, y, np.ones_like(x)], 1)
    s1, s2, s3 = quadratic.T @ quadratic, quadratic.T @ linear, linear.T @ linear
    try:
        back = -np.linalg.solve(s3, s2.T)
        reduced = s1 + s2 @ back
        values, vectors = np.linalg.eig(np.stack([reduced[2] / 2, -reduced[1], reduced[0] / 2]))
    except np.linalg.LinAlgError:  # the points lie on a line
        return empty
    vectors = np.real(vectors[:, np.isreal(values)])
    fitting = [vector for vector in vectors.T if 4 * vector[0] * vector[2] - vector[1] ** 2 > 0]
    if not fitting:
        return empty
    a, b, c = fitting[0]
    d, e, f = back @ fitting[0]
    v, u = np.mgrid[: outline.shape[0], : outline.shape[1]]
    u, v = (u - centre[0]) / scale, (v - centre[1]) / scale
    conic = a * u * u + b * u * v + c * v * v + d * u + e * v + f
    inside: np.ndarray = conic * np.sign(a) <= 0
    return inside
