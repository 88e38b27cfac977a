"""Mean IoU, recall and precision of a whole data set."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassPrecision, MulticlassRecall

from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import SetConfusion, overlap_scores

CLASSES = ["sky", "road", "car", "sign / post"]


def label_maps(seed: int, images: int = 5, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return predictions and truths ``(N, 6, 7)`` in which each image has its own share of classes, and 255."""
    rng = np.random.default_rng(seed)
    truth = np.stack([rng.integers(rng.integers(1, classes + 1), size=(6, 7)) for _ in range(images)])
    predicted = np.where(rng.random(truth.shape) < 0.5, truth, rng.integers(classes, size=truth.shape))
    truth[rng.random(truth.shape) < 0.1] = 255
    return torch.from_numpy(predicted), torch.from_numpy(truth)


def confusion_of(predicted: torch.Tensor, truth: torch.Tensor, classes: int = 4) -> np.ndarray:
    metric = SetConfusion(classes, ignore_index=255)
    for first in range(0, len(truth), 2):  # batches of two
        metric.update(predicted[first : first + 2], truth[first : first + 2])
    return metric.compute().numpy()


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_counting_pixels_one_by_one(seed: int) -> None:
    predicted, truth = label_maps(seed)
    counts = np.zeros((4, 4), int)
    for own, true in zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True):
        if true != 255:
            counts[true, own] += 1
    confusion = confusion_of(predicted, truth)
    np.testing.assert_array_equal(confusion, counts)
    scores = overlap_scores(confusion)
    pairs = [
        (own, true)
        for own, true in zip(predicted.flatten().tolist(), truth.flatten().tolist(), strict=True)
        if true != 255
    ]
    for index in range(4):
        found, there = ({place for place, pair in enumerate(pairs) if pair[side] == index} for side in (0, 1))
        assert scores.iou[index] == pytest.approx(len(found & there) / len(found | there))
        assert scores.recall[index] == pytest.approx(len(found & there) / len(there))
        assert scores.precision[index] == pytest.approx(len(found & there) / len(found))
    assert scores.means()["pixel_accuracy"] == pytest.approx(sum(own == true for own, true in pairs) / len(pairs))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("classes", [4, 6])  # of six classes two occur nowhere
def test_agrees_with_torchmetrics(seed: int, classes: int) -> None:
    predicted, truth = label_maps(seed)
    means = overlap_scores(confusion_of(predicted, truth, classes)).means()
    kinds = {"miou": MulticlassJaccardIndex, "mean_recall": MulticlassRecall, "mean_precision": MulticlassPrecision}
    for name, kind in kinds.items():
        other = kind(classes, average="macro", ignore_index=255)
        assert means[name] == pytest.approx(other(predicted, truth).item(), abs=1e-6), name


def test_a_mean_over_images_would_be_another_number() -> None:
    truth = torch.tensor([[[0, 0, 0, 1]], [[0, 1, 1, 1]]])
    predicted = torch.tensor([[[0, 0, 0, 0]], [[0, 1, 1, 1]]])
    scores = overlap_scores(confusion_of(predicted, truth, 2))
    np.testing.assert_allclose(scores.iou, [4 / 5, 3 / 4])
    assert scores.means() == pytest.approx(
        {"miou": 0.775, "mean_recall": (1 + 3 / 4) / 2, "mean_precision": (4 / 5 + 1) / 2, "pixel_accuracy": 7 / 8}
    )
    each = [np.nanmean(overlap_scores(confusion_of(predicted[i : i + 1], truth[i : i + 1], 2)).iou) for i in range(2)]
    assert np.mean(each) == pytest.approx((3 / 8 + 1) / 2)


def test_classes_that_occur_nowhere_do_not_count_and_those_that_are_missed_do() -> None:
    # Class 1 is never predicted, class 2 is predicted alone, class 3 is nowhere.
    confusion = np.array([[6, 0, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    scores = overlap_scores(confusion)
    np.testing.assert_allclose(scores.iou, [6 / 9, 0, 0, np.nan])
    np.testing.assert_allclose(scores.recall, [6 / 8, 0, 0, np.nan])
    np.testing.assert_allclose(scores.precision, [6 / 7, 0, 0, np.nan])
    assert scores.means()["miou"] == pytest.approx(6 / 9 / 3)
    assert [row["class"] for row in scores.rows(CLASSES)] == CLASSES
    assert scores.rows(CLASSES)[0] | {"iou": 0} == {
        "class": "sky",
        "iou": 0,
        "recall": 0.75,
        "precision": 6 / 7,
        "voxels": 8,
        "predicted": 7,
    }
    assert list(scores.of_classes(CLASSES)) == ["iou_sky", "iou_road", "iou_car", "iou_sign___post"]
    nothing = overlap_scores(np.zeros((2, 2), int)).means()
    assert all(np.isnan(value) for value in nothing.values())
    for wrong in (np.zeros((2, 3), int), np.zeros(4, int), np.array([[1, -1], [0, 0]])):
        with pytest.raises(PocketError, match="expected a square table of counts"):
            overlap_scores(wrong)


def test_what_is_no_image_of_its_own_is_not_counted() -> None:
    metric = SetConfusion(4, ignore_index=255)
    predicted, truth = label_maps(0, images=3)
    metric.update(predicted, truth, ["a", "", "c"])
    other = SetConfusion(4, ignore_index=255)
    other.update(predicted[[0, 2]], truth[[0, 2]])
    assert torch.equal(metric.compute(), other.compute())
    metric.reset()
    assert metric.counts.sum() == 0
    with pytest.raises(PocketError, match="one subject per item"):
        metric.update(predicted, truth, ["a"])
    with pytest.raises(PocketError, match="found values from 0 to 3; expected classes 0 to 1"):
        SetConfusion(2).update(predicted[:1], torch.zeros_like(truth[:1]))
    with pytest.raises(PocketError, match="give at least 2"):
        SetConfusion(1)
