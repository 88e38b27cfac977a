"""How often the true class is not among the most probable ones, as ImageNet counts errors."""

from __future__ import annotations

import numpy as np

from lightning_pocket.errors import PocketError


def top_error(probability_NK: np.ndarray, target_N: np.ndarray, k: int) -> float:
    """Return the share of images whose true class is not among the ``k`` most probable ones.

    Of equally probable classes the first counts as more probable, so that the top-1 error is one minus the accuracy of
    ``score_classes``.

    Args:
        probability_NK: ``(N, K)`` probabilities of each image.
        target_N: ``(N,)`` integers, true class of each image.
        k: Number of guesses, from 1 to ``K``.

    Returns:
        In [0, 1].

    Raises:
        PocketError: If there are no images, or not so many classes.
    """
    if not len(target_N) or len(probability_NK) != len(target_N):
        raise PocketError(
            f"top-{k} error: found {len(probability_NK)} rows of probabilities for {len(target_N)} images; expected "
            "one for each of at least one image."
        )
    classes = probability_NK.shape[1]
    if not 1 <= k <= classes:
        raise PocketError(f"top-{k} error: expected 1 to {classes} guesses, since there are {classes} classes.")
    own_N1 = np.take_along_axis(probability_NK, target_N[:, None].astype(np.intp), axis=1)
    first_NK = np.arange(classes) < target_N[:, None]
    before_N = ((probability_NK > own_N1) | ((probability_NK == own_N1) & first_NK)).sum(axis=1)
    return float(np.mean(before_N >= k))
