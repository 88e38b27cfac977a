"""Scores of images that have one class each, from the probabilities that were predicted.

Definitions, with TP, FP, FN and TN counted for one class against the rest:

* accuracy: share of the images whose most probable class is the true one (of equal ones the first counts);
* sensitivity (recall): ``TP / (TP + FN)``; specificity: ``TN / (TN + FP)``;
* F1: ``2 TP / (2 TP + FP + FN)``;
* AUC: the area under the ROC curve, which is the chance that an image of the class gets a higher probability of it
  than another image, ties counted half (Hanley and McNeil, Radiology 1982). Nothing is binned;
* expected calibration error: see :func:`calibration_error`.

A score that would divide by zero is NaN: AUC and sensitivity of a class without images, for example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_pocket.errors import PocketError

from .case_scores import column_name

#: Metric of a classification -> whether more is better.
CLASS_METRICS: dict[str, bool] = {
    "auc": True,
    "accuracy": True,
    "sensitivity": True,
    "specificity": True,
    "f1": True,
    "ece": False,
}
#: Those that are given for each class where there are more than two.
_ONE_AGAINST_REST = ("auc", "sensitivity", "specificity", "f1")


@dataclass(frozen=True)
class Calibration:
    """How often predictions of like confidence are right.

    Attributes:
        count: ``(bins,)`` images in each bin.
        confidence: ``(bins,)`` mean probability of the predicted class; NaN in empty bins.
        accuracy: ``(bins,)`` share of them that are right; NaN in empty bins.
    """

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error, in [0, 1]."""
        return float(np.nansum(self.count * np.abs(self.accuracy - self.confidence)) / self.count.sum())


def score_classes(
    probability_NK: np.ndarray, target_N: np.ndarray, classes: Sequence[str], bins: int = 15
) -> dict[str, float]:
    """Score the predictions of a set of images.

    Args:
        probability_NK: ``(N, K)`` probabilities of each image.
        target_N: ``(N,)`` integers, true class of each image.
        classes: Names of the ``K`` classes. Of two the second is the positive one.
        bins: Bins of the calibration error.

    Returns:
        ``auc``, ``accuracy``, ``sensitivity``, ``specificity``, ``f1`` and ``ece``. With two classes they are those of
        the positive class. With more, each class is taken against the rest: ``auc_NAME`` and so on, and ``auc``,
        ``sensitivity``, ``specificity`` and ``f1`` are their means over the classes in which they are defined
        (macro mean).

    Raises:
        PocketError: If there are no images, or shapes, classes or probabilities cannot be right.
    """
    _check(probability_NK, target_N, len(classes))
    confusion = confusion_matrix(target_N, probability_NK.argmax(axis=1), len(classes))
    per_class = [
        {"auc": area_under_roc(probability_NK[:, index], target_N == index)} | _rates(confusion, index)
        for index in range(len(classes))
    ]
    several = len(classes) > 2
    means = {name: _mean([s[name] for s in per_class]) for name in _ONE_AGAINST_REST} if several else per_class[1]
    values = means | {
        "accuracy": float(confusion.trace() / confusion.sum()),
        "ece": calibration(probability_NK, target_N, bins).error,
    }
    scores = {name: values[name] for name in CLASS_METRICS}
    if several:
        for name in _ONE_AGAINST_REST:
            scores |= {f"{name}_{column_name(c)}": s[name] for c, s in zip(classes, per_class, strict=True)}
    return scores


def area_under_roc(score_N: np.ndarray, positive_N: np.ndarray) -> float:
    """Return the area under the ROC curve, exactly.

    Args:
        score_N: ``(N,)`` numbers; larger means more likely positive.
        positive_N: ``(N,)`` bool.

    Returns:
        In [0, 1]; NaN unless there are positive and negative images.
    """
    _, tie_N, count_T = np.unique(score_N, return_inverse=True, return_counts=True)
    rank_T = count_T.cumsum() - (count_T - 1) / 2  # mean rank of each group of ties, from 1
    positives = int(np.count_nonzero(positive_N))
    negatives = len(positive_N) - positives
    if not positives or not negatives:
        return float("nan")
    above = rank_T[tie_N][positive_N].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def roc_curve(score_N: np.ndarray, positive_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ROC curve: one point for each threshold at which its direction changes.

    Args:
        score_N: ``(N,)`` numbers; larger means more likely positive.
        positive_N: ``(N,)`` bool.

    Returns:
        False positive rate and true positive rate, from (0, 0) to (1, 1).

    Raises:
        PocketError: Unless there are positive and negative images.
    """
    positives = int(np.count_nonzero(positive_N))
    if positives in (0, len(positive_N)):
        raise PocketError(f"ROC curve: {positives} of {len(positive_N)} images are positive; expected some of both.")
    order = np.argsort(-score_N, kind="stable")
    last = np.append(np.diff(score_N[order]) != 0, True)  # of each group of ties
    true = np.concatenate([[0], positive_N[order].cumsum()[last]])
    false = np.concatenate([[0], np.arange(1, len(order) + 1)[last]]) - true
    up, right = np.diff(true), np.diff(false)
    turns = up[1:] * right[:-1] != up[:-1] * right[1:]  # whole numbers: exact
    kept = np.concatenate([[True], turns, [True]])
    return false[kept] / (len(positive_N) - positives), true[kept] / positives


def confusion_matrix(target_N: np.ndarray, predicted_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Return ``(K, K)`` counts of images, rows are true classes and columns predicted ones."""
    pairs = target_N.astype(np.intp) * num_classes + predicted_N.astype(np.intp)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def calibration(probability_NK: np.ndarray, target_N: np.ndarray, bins: int = 15) -> Calibration:
    """Compare the confidence of predictions with how often they are right.

    The probability of the predicted class falls into one of ``bins`` intervals of equal width, ``((i - 1) / bins,
    i / bins]``. The expected calibration error is the mean over all images of how far accuracy and mean confidence of
    their bin lie apart (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3).

    Args:
        probability_NK: ``(N, K)`` probabilities of each image.
        target_N: ``(N,)`` integers, true class of each image.
        bins: Number of intervals.

    Raises:
        PocketError: If ``bins`` is below 1.
    """
    if bins < 1:
        raise PocketError(f"bins: found {bins}; give at least 1.")
    confidence_N = probability_NK.max(axis=1)
    right_N = probability_NK.argmax(axis=1) == target_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.intp) - 1, 0, bins - 1)
    count = np.bincount(bin_N, minlength=bins)
    filled = np.where(count, count, np.nan)
    confidence = np.bincount(bin_N, weights=confidence_N, minlength=bins) / filled
    return Calibration(count, confidence, np.bincount(bin_N, weights=right_N, minlength=bins) / filled)


def calibration_error(probability_NK: np.ndarray, target_N: np.ndarray, bins: int = 15) -> float:
    """Return the expected calibration error; see :func:`calibration`."""
    return calibration(probability_NK, target_N, bins).error


def _rates(confusion: np.ndarray, index: int) -> dict[str, float]:
    """Return what the confusion matrix tells of one class against the rest."""
    hit, missed = confusion[index, index], confusion[index].sum() - confusion[index, index]
    alarms = confusion[:, index].sum() - hit
    others = confusion.sum() - hit - missed
    return {
        "sensitivity": _ratio(hit, hit + missed),
        "specificity": _ratio(others - alarms, others),
        "f1": _ratio(2 * hit, 2 * hit + alarms + missed),
    }


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _check(probability_NK: np.ndarray, target_N: np.ndarray, num_classes: int) -> None:
    if num_classes < 2 or probability_NK.shape != (len(target_N), num_classes) or not len(target_N):
        raise PocketError(
            f"probabilities: found shape {probability_NK.shape} for {len(target_N)} images and {num_classes} classes; "
            "expected one row per image and one column per class, of each at least one image and two classes."
        )
    if not np.isfinite(probability_NK).all():
        raise PocketError("probabilities: found NaN or infinity; the network's weights are damaged. Train it again.")
    low, high = int(target_N.min()), int(target_N.max())
    if low < 0 or high >= num_classes:
        raise PocketError(f"target: found values from {low} to {high}; expected classes 0 to {num_classes - 1}.")
