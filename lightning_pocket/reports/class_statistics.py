"""Paired comparison of two classifiers of the same images."""

from __future__ import annotations

import math

import numpy as np

from .classified import Classified
from .statistics import Bootstrap, PairedComparison, mcnemar

#: Elements of the largest matrix in memory.
_CHUNK = 2**24


def compare_auc(first: Classified, second: Classified, bootstrap: Bootstrap) -> PairedComparison:
    """Compare the areas under the ROC curves: of the second of two classes, or the mean over more, one against rest.

    The interval is that of a paired bootstrap: images are drawn with replacement within each true class, and both
    classifiers are scored on the same draw. No p value is given.

    Args:
        first: Predictions for N images.
        second: Predictions for the same images, in the same order.
        bootstrap: How the interval is found.

    Returns:
        The comparison of second with first; NaN where no class has images on both sides.
    """
    # A class without images, or with all of them, has no curve; it is left out of the mean, as in the scores.
    drawn = first.drawn
    if not drawn:
        nan = math.nan
        return PairedComparison(len(first.subjects), 0, nan, nan, nan, nan, nan, 0, 0, 0, "the AUC is not defined")
    positives = [first.target == index for index in drawn]
    gains = [
        _placements(second.probability[:, index], positive) - _placements(first.probability[:, index], positive)
        for index, positive in zip(drawn, positives, strict=True)
    ]
    resampled = _resample(gains, positives, first.target, bootstrap)
    low, high = bootstrap.percentiles(resampled)
    difference = float(np.mean([gain.mean(dtype=np.float64) for gain in gains]))
    return PairedComparison(len(first.subjects), 0, difference, low, high, math.nan, math.nan, 0, 0, 0)


def compare_accuracy(first: Classified, second: Classified, bootstrap: Bootstrap) -> PairedComparison:
    """Compare the shares of images that are told right, with McNemar's exact test.

    Args:
        first: Predictions for N images.
        second: Predictions for the same images, in the same order.
        bootstrap: How the interval of the difference is found.

    Returns:
        The comparison of second with first: ``larger`` counts the images that only the second gets right, ``smaller``
        those that only the first does. The effect is the difference of the two as a share of their sum.
    """
    right = [(cases.predicted == cases.target).astype(np.float64) for cases in (first, second)]
    differences = right[1] - right[0]
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    low, high = bootstrap.interval(differences)
    return PairedComparison(
        cases=len(differences),
        left_out=0,
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=mcnemar(gained, lost),
        effect=(gained - lost) / (gained + lost) if gained + lost else 0.0,
        larger=gained,
        equal=len(differences) - gained - lost,
        smaller=lost,
    )


def _placements(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return ``(P, Q)``: 1 where a positive image scores above another, 1/2 where they tie; the mean is the AUC."""
    above = np.empty((int(positive.sum()), int((~positive).sum())), np.float32)
    others = score[~positive]
    for row, value in enumerate(score[positive]):
        above[row] = (value > others) + 0.5 * (value == others)
    return above


def _resample(
    gains: list[np.ndarray], positives: list[np.ndarray], target: np.ndarray, bootstrap: Bootstrap
) -> np.ndarray:
    """Return the difference of the mean AUC in each resample."""
    random = np.random.default_rng(bootstrap.seed)
    members = [np.flatnonzero(target == index) for index in np.unique(target)]
    step = max(1, _CHUNK // len(target))
    found = []
    for start in range(0, bootstrap.resamples, step):
        times = np.zeros((min(step, bootstrap.resamples - start), len(target)), np.float32)
        for cases in members:  # how often each image is drawn
            times[:, cases] = random.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), len(times))
        areas = [
            np.einsum("bq,bq->b", times[:, positive] @ gain, times[:, ~positive]) / gain.size
            for gain, positive in zip(gains, positives, strict=True)
        ]
        found.append(np.mean(areas, axis=0))
    return np.concatenate(found)
