"""Dice against plain set arithmetic, and how cases are counted."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.segmentation import DiceScore

from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import CaseDice, dice_per_class


def random_labels(size=(6, 7, 8), classes=4, batch=3, seed=0, dtype=torch.int64) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, classes, (batch, *size))).to(dtype)


def plain_dice(predicted, label, k) -> float:
    a, b = (set(np.flatnonzero(x.numpy() == k)) for x in (predicted, label))
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0


@pytest.mark.parametrize(("size", "dtype"), [((6, 7, 8), torch.uint8), ((9, 10), torch.int64)])
def test_dice_per_class_is_set_arithmetic(size, dtype):
    predicted, label = random_labels(size, dtype=dtype), random_labels(size, seed=1, dtype=dtype)
    dice = dice_per_class(predicted, label, 4)
    for b in range(3):
        for k in range(4):
            assert dice.scores[b, k].item() == pytest.approx(plain_dice(predicted[b], label[b], k))
            assert dice.predicted_voxels[b, k] == (predicted[b] == k).sum()
            assert dice.label_voxels[b, k] == (label[b] == k).sum()
            assert dice.overlap[b, k] == ((predicted[b] == k) & (label[b] == k)).sum()


def test_many_classes_do_not_overflow_bytes():
    label = torch.arange(200, dtype=torch.uint8).repeat(2, 1)
    dice = dice_per_class(label, label, 200)
    assert dice.scores.min() == 1
    assert dice.overlap.sum() == 400


def test_empty_masks():
    #                      class 1: both empty, class 2: only predicted, class 3: only in the label
    dice = dice_per_class(torch.tensor([[0, 2, 0]]), torch.tensor([[0, 0, 3]]), 4)
    assert dice.scores[0].tolist() == [0.5, 1, 0, 0]


def test_ignored_voxels_do_not_count():
    predicted, label = random_labels(), random_labels(seed=1)
    ignored = torch.cat([label[:, :4], torch.full_like(label[:, 4:], 255)], dim=1)
    for found, expected in zip(
        dice_per_class(predicted, ignored, 4, ignore_index=255),
        dice_per_class(predicted[:, :4], label[:, :4], 4),
        strict=True,
    ):
        assert torch.equal(found, expected)


def test_case_dice_is_the_mean_over_cases_and_agrees_with_torchmetrics():
    predicted, label = random_labels(batch=5), random_labels(batch=5, seed=1)
    metric = CaseDice(4)
    metric.update(predicted[:2], label[:2])
    metric.update(predicted[2:], label[2:])
    expected = [np.mean([plain_dice(predicted[b], label[b], k) for b in range(5)]) for k in (1, 2, 3)]
    assert metric.compute().tolist() == pytest.approx(expected)
    assert metric.predicted_foreground == (predicted > 0).sum()
    reference = DiceScore(4, include_background=False, average="none", input_format="index")
    torch.testing.assert_close(metric.compute(), reference(predicted, label).float())


def test_items_of_one_subject_make_one_case():
    predicted, label = random_labels(batch=2), random_labels(batch=2, seed=1)
    whole = CaseDice(4)
    whole.update(predicted, label, ["a", "b"])
    patches = CaseDice(4)
    for part in (slice(0, 2), slice(2, 6)):
        patches.update(predicted[:, part], label[:, part], ["a", "b"])
    torch.testing.assert_close(patches.compute(), whole.compute())
    separate = CaseDice(4)
    for part in (slice(0, 2), slice(2, 6)):
        separate.update(predicted[:, part], label[:, part])
    assert not torch.allclose(separate.compute(), whole.compute(), atol=1e-4)


def test_items_without_a_subject_are_not_counted():
    predicted, label = random_labels(), random_labels(seed=1)
    metric, expected = CaseDice(4), CaseDice(4)
    metric.update(predicted, label, ["", "b", ""])
    metric.update(predicted[:1], label[:1], [""])
    expected.update(predicted[1:2], label[1:2])
    assert torch.equal(metric.compute(), expected.compute())
    assert metric.predicted_foreground == expected.predicted_foreground
    metric.reset()
    metric.update(predicted[:1], label[:1], [""])
    assert torch.isnan(metric.compute()).all()


def test_processes_are_joined_and_repeated_cases_count_once():
    predicted, label = random_labels(), random_labels(seed=1)
    here, there = CaseDice(4), CaseDice(4)
    here.update(predicted[:2], label[:2], ["a", "b"])
    there.update(predicted[2:], label[2:], ["c"])
    there.update(predicted[:1], label[:1], ["a"])  # a distributed sampler repeats cases to fill the last batch
    names = ("subject", "predicted_voxels", "label_voxels", "overlap")
    remote = iter([torch.cat(getattr(there, name)) for name in names])
    here.dist_sync_fn = lambda mine, **_: [mine, next(remote)]
    here.distributed_available_fn = lambda: True
    expected = [np.mean([plain_dice(predicted[b], label[b], k) for b in range(3)]) for k in (1, 2, 3)]
    assert here.compute().tolist() == pytest.approx(expected)
    assert here.predicted_foreground == (predicted > 0).sum() + (predicted[0] > 0).sum()


def test_a_process_without_cases_joins_with_states_that_fit():
    idle, busy = CaseDice(4), CaseDice(4)
    busy.update(random_labels(), random_labels(seed=1))
    remote = iter(
        [torch.cat(getattr(busy, name)) for name in ("subject", "predicted_voxels", "label_voxels", "overlap")]
    )

    def gather(mine: Tensor, **_) -> list[Tensor]:
        theirs = next(remote)
        assert (len(mine), mine.shape[1:], mine.dtype) == (0, theirs.shape[1:], theirs.dtype)
        return [mine, theirs]

    idle.dist_sync_fn, idle.distributed_available_fn = gather, lambda: True
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert torch.equal(idle.compute(), busy.compute())


def test_collapse_to_background_shows_and_reset_forgets():
    metric = CaseDice(3)
    metric.update(torch.zeros(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.uint8))
    assert metric.compute().tolist() == [0, 1]
    assert metric.predicted_foreground == 0
    metric.reset()
    metric.update(torch.ones(1, 4, 4, dtype=torch.uint8), torch.ones(1, 4, 4, dtype=torch.uint8))
    assert metric.compute().tolist() == [1, 1]
    assert metric.predicted_foreground == 16


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_case_is_nan():
    assert torch.isnan(CaseDice(3).compute()).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CaseDice(1), "num_classes: found 1"),
        (lambda: CaseDice(4).update(random_labels(), random_labels(), ["a"]), "subjects: found 1 for a batch of 3"),
        (lambda: dice_per_class(random_labels(), random_labels((6, 7, 9)), 4), "predicted: found shape"),
        (lambda: dice_per_class(random_labels(), random_labels(), 3), "predicted: found values from 0 to 3"),
        (lambda: dice_per_class(random_labels(classes=3), random_labels() - 1, 3), "label: found values from -1 to 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(PocketError, match=message):
        call()


def test_items_that_only_keep_processes_in_step_are_not_counted():
    label = torch.tensor([[[0, 1], [1, 1]], [[0, 1], [0, 0]]])
    metric = CaseDice(2)
    metric.update(label, label, ["a", "b"])
    metric.update(torch.zeros_like(label), label, ["", ""])
    assert metric.compute().item() == 1.0
    only = CaseDice(2)
    only.update(label, label, ["", ""])
    assert only.compute().isnan().all()
