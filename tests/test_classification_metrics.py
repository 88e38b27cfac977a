"""Scores of classifications against brute force, hand-made numbers and torchmetrics."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error, multiclass_f1_score

from lightning_pocket.errors import PocketError
from lightning_pocket.losses import ClassCrossEntropy
from lightning_pocket.metrics import (
    CLASS_METRICS,
    GatheredLogits,
    area_under_roc,
    calibration,
    calibration_error,
    confusion_matrix,
    roc_curve,
    score_classes,
)

SEEDS = pytest.mark.parametrize("seed", range(8))


def ranked(seed, levels=6):
    """Return scores with many ties, and which are positive."""
    rng = np.random.default_rng(seed)
    positive = rng.random(40) < 0.4
    return (rng.integers(0, levels, 40) + positive) / levels, positive


def predictions(seed, classes, count=60):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes))
    target = rng.integers(0, classes, count)
    logits[np.arange(count), target] += 0.7
    probability = np.exp(logits)
    return probability / probability.sum(1, keepdims=True), target


@SEEDS
def test_auc_is_the_share_of_pairs_in_the_right_order(seed):
    score, positive = ranked(seed)
    pairs = [(p > n) + 0.5 * (p == n) for p in score[positive] for n in score[~positive]]
    assert area_under_roc(score, positive) == pytest.approx(np.mean(pairs), abs=1e-12)
    reference = binary_auroc(torch.tensor(score), torch.tensor(positive).long(), thresholds=None)
    assert area_under_roc(score, positive) == pytest.approx(reference.item(), abs=1e-6)


def test_auc_closed_forms():
    positive = np.array([False, False, True, True])
    assert area_under_roc(np.array([0.1, 0.2, 0.3, 0.4]), positive) == 1
    assert area_under_roc(np.array([0.4, 0.3, 0.2, 0.1]), positive) == 0
    assert area_under_roc(np.array([0.1, 0.4, 0.35, 0.8]), positive) == 0.75
    assert area_under_roc(np.full(4, 0.3), positive) == 0.5
    for single in (True, False):
        assert math.isnan(area_under_roc(np.array([0.1, 0.9]), np.full(2, single)))


def test_probabilities_that_differ_in_the_last_digit_are_ranked():
    score = np.array([1 - 3e-16, 1 - 1e-16])
    assert area_under_roc(score, np.array([False, True])) == 1


@SEEDS
def test_the_roc_curve_passes_through_every_threshold_with_corners_only(seed):
    score, positive = ranked(seed)
    false, true = roc_curve(score, positive)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.sum(np.diff(false) * (true[1:] + true[:-1]) / 2) == pytest.approx(area_under_roc(score, positive))
    for threshold in np.unique(score):
        taken = score >= threshold
        at = np.mean(taken[~positive]), np.mean(taken[positive])
        # On the polyline: between two corners, on the straight line that joins them.
        gaps = [
            abs((x1 - x0) * (at[1] - y0) - (at[0] - x0) * (y1 - y0))
            for (x0, y0), (x1, y1) in itertools.pairwise(zip(false, true, strict=True))
            if x0 - 1e-9 <= at[0] <= x1 + 1e-9 and y0 - 1e-9 <= at[1] <= y1 + 1e-9
        ]
        assert min(gaps) < 1e-9
    bends = np.diff(true)[1:] * np.diff(false)[:-1] - np.diff(true)[:-1] * np.diff(false)[1:]
    assert (np.abs(bends) > 1e-12).all()


def test_a_curve_needs_both_kinds_of_images():
    with pytest.raises(PocketError, match=r"ROC curve: 2 of 2 images are positive"):
        roc_curve(np.array([0.1, 0.2]), np.array([True, True]))


def test_two_classes_by_hand():
    # True class, predicted class: 3 x (0, 0), 1 x (0, 1), 2 x (1, 0), 4 x (1, 1).
    target = np.repeat([0, 0, 1, 1], [3, 1, 2, 4])
    predicted = np.repeat([0, 1, 0, 1], [3, 1, 2, 4])
    probability = np.where(predicted[:, None] == [0, 1], 0.9, 0.1)
    assert confusion_matrix(target, predicted, 2).tolist() == [[3, 1], [2, 4]]
    scores = score_classes(probability, target, ["healthy", "ill"])
    assert list(scores) == list(CLASS_METRICS)
    assert scores["accuracy"] == pytest.approx(0.7)
    assert scores["sensitivity"] == pytest.approx(4 / 6)
    assert scores["specificity"] == pytest.approx(3 / 4)
    assert scores["f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert scores["ece"] == pytest.approx(0.9 - 0.7)
    assert scores["auc"] == pytest.approx((4 * 3 + 0.5 * (4 * 1 + 2 * 3)) / (6 * 4))


@SEEDS
def test_several_classes_are_each_taken_against_the_rest(seed):
    probability, target = predictions(seed, 4)
    names = ["a", "b/c", "d e", "f"]
    scores = score_classes(probability, target, names)
    predicted = probability.argmax(1)
    columns = ["a", "b_c", "d_e", "f"]
    for k, column in enumerate(columns):
        is_k, said_k = target == k, predicted == k
        assert scores[f"sensitivity_{column}"] == pytest.approx(np.mean(said_k[is_k]))
        assert scores[f"specificity_{column}"] == pytest.approx(np.mean(~said_k[~is_k]))
        assert scores[f"auc_{column}"] == pytest.approx(area_under_roc(probability[:, k], is_k))
    for metric in ("auc", "sensitivity", "specificity", "f1"):
        assert scores[metric] == pytest.approx(np.mean([scores[f"{metric}_{column}"] for column in columns]))
    f1 = multiclass_f1_score(torch.tensor(probability), torch.tensor(target), num_classes=4, average=None)
    assert [scores[f"f1_{column}"] for column in columns] == pytest.approx(f1.tolist(), abs=1e-6)
    assert scores["accuracy"] == pytest.approx(np.mean(predicted == target))


def test_a_class_without_images_is_left_out_of_the_means():
    probability, target = predictions(0, 3)
    kept = target != 2
    scores = score_classes(probability[kept], target[kept], ["a", "b", "c"])
    assert math.isnan(scores["auc_c"])
    assert math.isnan(scores["sensitivity_c"])
    assert scores["auc"] == pytest.approx((scores["auc_a"] + scores["auc_b"]) / 2)
    single = score_classes(np.array([[0.2, 0.8]]), np.array([0]), ["a", "b"])
    assert math.isnan(single["auc"])
    assert math.isnan(single["sensitivity"])
    assert (single["specificity"], single["accuracy"], single["f1"]) == (0, 0, 0)


def test_calibration_error_closed_forms():
    def two(confidence, right, count):
        """Return ``count`` predictions of class 1, of which ``right`` are right."""
        return np.tile([1 - confidence, confidence], (count, 1)), np.arange(count) < right

    first, second = two(0.8, 6, 10), two(0.95, 10, 10)
    assert calibration_error(first[0], first[1].astype(int)) == pytest.approx(0.8 - 0.6)
    both = np.concatenate([first[0], second[0]]), np.concatenate([first[1], second[1]]).astype(int)
    assert calibration_error(*both) == pytest.approx((10 * 0.2 + 10 * 0.05) / 20)
    assert calibration_error(*both, bins=1) == pytest.approx(abs(16 / 20 - 0.875))
    assert calibration_error(*two(0.8, 8, 10)) == pytest.approx(0)


@SEEDS
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_is_that_of_a_plain_loop_and_of_torchmetrics(seed, bins):
    probability, target = predictions(seed, 3)
    total = 0.0
    for low, high in itertools.pairwise(np.linspace(0, 1, bins + 1)):
        inside = (probability.max(1) > low) & (probability.max(1) <= high)
        if inside.any():
            gap = np.mean(probability.argmax(1)[inside] == target[inside]) - probability.max(1)[inside].mean()
            total += inside.mean() * abs(gap)
    assert calibration_error(probability, target, bins) == pytest.approx(total)
    reference = multiclass_calibration_error(torch.tensor(probability), torch.tensor(target), 3, n_bins=bins)
    assert calibration_error(probability, target, bins) == pytest.approx(reference.item(), abs=1e-6)
    assert calibration(probability, target, bins).count.sum() == len(target)


def test_bins_end_with_their_upper_edge():
    probability = np.array([[0.5, 0.5], [0.25, 0.75], [0.0, 1.0]])
    assert calibration(probability, np.array([1, 1, 1]), bins=4).count.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("probability", "target", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0), r"found shape \(0, 2\) for 0 images and 2 classes"),
        (np.ones((2, 3)), np.zeros(2), r"found shape \(2, 3\) for 2 images and 2 classes"),
        (np.array([[0.5, np.nan]]), np.zeros(1), "found NaN or infinity"),
        (np.full((2, 2), 0.5), np.array([0, 2]), "target: found values from 0 to 2; expected classes 0 to 1"),
    ],
)
def test_what_cannot_be_scored_is_named(probability, target, message):
    with pytest.raises(PocketError, match=message):
        score_classes(probability, target, ["a", "b"])


def test_gathered_logits_hold_every_image_once():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    metric = GatheredLogits(3)
    metric.update(logits[:4], target[:4], ["a", "b", "", "c"])
    metric.update(logits[4:], target[4:], ["b", "d", ""])  # b again, as a sampler would repeat it
    gathered = metric.compute()
    assert sorted(map(tuple, gathered["logits"].tolist())) == sorted(map(tuple, logits[[0, 1, 3, 5]].tolist()))
    found = {tuple(row): int(k) for row, k in zip(gathered["logits"].tolist(), gathered["target"], strict=True)}
    assert found == {tuple(logits[i].tolist()): int(target[i]) for i in (0, 1, 3, 5)}
    unnamed = GatheredLogits(3)
    unnamed.update(logits, target)
    assert torch.equal(unnamed.compute()["target"].sort().values, target.sort().values)
    with pytest.raises(PocketError, match=r"logits: found shape \(7, 3\); expected \(7, 2\)"):
        GatheredLogits(2).update(logits, target)


def test_weighted_cross_entropy_closed_form():
    logits, target = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [math.log(4), 0.0]]), torch.tensor([0, 1, 0])
    surprise = [math.log(4), math.log(2), math.log(5 / 4)]  # of the true class
    weighted = ClassCrossEntropy([2.0, 6.0])(logits, target)
    assert weighted.item() == pytest.approx((2 * surprise[0] + 6 * surprise[1] + 2 * surprise[2]) / 10)
    assert ClassCrossEntropy()(logits, target).item() == pytest.approx(sum(surprise) / 3)
    # Three times the weight is three times the images.
    repeated = torch.cat([logits, logits[1:2], logits[1:2]]), torch.cat([target, target[1:2], target[1:2]])
    assert weighted.item() == pytest.approx(ClassCrossEntropy()(*repeated).item())
    smooth = ClassCrossEntropy(label_smoothing=0.2)(logits, target)
    other = [math.log(4 / 3), math.log(2), math.log(5)]
    assert smooth.item() == pytest.approx(sum(0.9 * s + 0.1 * o for s, o in zip(surprise, other, strict=True)) / 3)
    half = ClassCrossEntropy([2.0, 6.0])(logits.bfloat16(), target.int())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, F.cross_entropy(logits.bfloat16().float(), target, torch.tensor([2.0, 6.0])))


@pytest.mark.parametrize(
    ("settings", "shapes", "message"),
    [
        ({"class_weights": [1.0, -1.0]}, None, r"class_weights: found \[1.0, -1.0\]"),
        ({"class_weights": [0.0, 0.0]}, None, "not all 0"),
        ({"class_weights": []}, None, "not all 0"),
        ({"label_smoothing": 1.0}, None, "label_smoothing: found 1.0"),
        ({"class_weights": [1.0]}, ((4, 2), (4,)), "found 1 weights for 2 classes"),
        ({}, ((4, 2, 8, 8), (4,)), r"logits of shape \(4, 2, 8, 8\); expected \(B,\) and \(B, K\)"),
        ({}, ((4, 2), (4, 1)), r"target: found shape \(4, 1\)"),
    ],
)
def test_losses_that_cannot_be_right(settings, shapes, message):
    def use():
        loss = ClassCrossEntropy(**settings)
        loss(torch.zeros(shapes[0]), torch.zeros(shapes[1], dtype=torch.long))

    with pytest.raises(PocketError, match=message):
        use()
