"""Paired comparison of two classifiers of the same images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .classified import Classified
from .proportions import paired_interval
from .statistics import Bootstrap, PairedComparison, doubt_of, mcnemar, note_on

#: Elements of the largest matrix in memory, small enough for the cache of a processor.
_CHUNK = 2**18
NO_TEST = "an interval only, no test"


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
    curves = [
        [_Curve.of(cases.probability[:, index], first.target == index) for cases in (first, second)] for index in drawn
    ]

    def gain(times: np.ndarray) -> np.ndarray:
        return np.mean([other.area(times) - one.area(times) for one, other in curves], axis=0)

    low, high = bootstrap.percentiles(_resample(gain, first.target, bootstrap))
    difference = float(gain(np.ones((len(first.target), 1), np.int32))[0])
    fewest = min(min(len(one.positive), len(one.others)) for one, _ in curves)
    doubt = doubt_of(fewest, low, high, "images of a class or of the others")
    nan = math.nan
    return PairedComparison(len(first.subjects), 0, difference, low, high, nan, nan, 0, 0, 0, NO_TEST, doubt)


def compare_accuracy(first: Classified, second: Classified, bootstrap: Bootstrap) -> PairedComparison:
    """Compare the shares of images that are told right, with McNemar's exact test.

    Args:
        first: Predictions for N images.
        second: Predictions for the same images, in the same order.
        bootstrap: Its confidence is that of the interval, which is :func:`paired_interval` and not resampled: resamples
            of images that both get right never differ.

    Returns:
        The comparison of second with first: ``larger`` counts the images that only the second gets right, ``smaller``
        those that only the first does. The effect is the difference of the two as a share of their sum.
    """
    right = [(cases.predicted == cases.target).astype(np.float64) for cases in (first, second)]
    differences = right[1] - right[0]
    gained, lost = int((differences > 0).sum()), int((differences < 0).sum())
    low, high = paired_interval(gained, lost, len(differences), bootstrap.confidence)
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
        note=note_on(gained + lost),
        doubt=doubt_of(len(differences), low, high, "images"),
    )


@dataclass(frozen=True)
class _Curve:
    """Where the scores of P images of a class lie among those of the Q others.

    Args:
        positive: ``(P,)`` indices of the images of the class.
        others: ``(Q,)`` indices of the other images, by score.
        below: ``(P,)`` number of others that score less than each image of the class.
        upto: ``(P,)`` number of others that score less or the same.
    """

    positive: np.ndarray
    others: np.ndarray
    below: np.ndarray
    upto: np.ndarray

    @classmethod
    def of(cls, score: np.ndarray, is_positive: np.ndarray) -> _Curve:
        positive, others = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
        others = others[np.argsort(score[others])]
        below, upto = (np.searchsorted(score[others], score[positive], side) for side in ("left", "right"))
        return cls(positive, others, below, upto)

    def area(self, times: np.ndarray) -> np.ndarray:
        """Return the area under the curve ``(B,)`` of B draws; ``times`` ``(N, B)`` is how often each has each image.

        It is the share of pairs in which the image of the class scores higher, ties counting one half (Hanley and
        McNeil 1982). A draw has as many images of each class as there are.
        """
        drawn = np.zeros((len(self.others) + 1, times.shape[1]), np.int32)
        np.cumsum(times.take(self.others, axis=0), axis=0, dtype=np.int32, out=drawn[1:])
        outranked = drawn.take(self.below, axis=0) + drawn.take(self.upto, axis=0)  # twice: ties are whole numbers too
        pairs = len(self.positive) * len(self.others)
        return (times.take(self.positive, axis=0) * outranked).sum(axis=0, dtype=np.int64) / (2 * pairs)


def _resample(statistic: Callable[[np.ndarray], np.ndarray], target: np.ndarray, bootstrap: Bootstrap) -> np.ndarray:
    """Return a statistic of each resample within the true classes, given how often the images are drawn ``(N, B)``."""
    random = np.random.default_rng(bootstrap.seed)
    members = [np.flatnonzero(target == index) for index in np.unique(target)]
    step = max(1, _CHUNK // len(target))
    found = []
    for start in range(0, bootstrap.resamples, step):
        times = np.zeros((len(target), min(step, bootstrap.resamples - start)), np.int32)
        for cases in members:
            count = len(cases)
            draws = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(times.shape[1])]
            times[cases] = np.stack(draws, axis=1)
        found.append(statistic(times))
    return np.concatenate(found)
