"""Losses against plain sums, closed forms and torch's own cross-entropy."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from lightning_pocket.errors import PocketError
from lightning_pocket.losses import DiceCrossEntropy, L2Dice, deep_supervision_loss, downsample_label

LOSSES = [L2Dice(), L2Dice("joint"), DiceCrossEntropy()]


def random_case(size=(5, 6, 7), classes=3, batch=2, dtype=torch.int64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, *size, generator=generator)
    label = torch.multinomial(
        torch.arange(classes, 0.0, -1) ** 3, batch * logits[0, 0].numel(), True, generator=generator
    )
    return logits, label.view(batch, *size).to(dtype)


def one_hot(label: Tensor, classes: int) -> Tensor:
    return F.one_hot(label.long(), classes).movedim(-1, 1).double()


def plain_l2_dice(logits, label, reduction, classes_used, weights, epsilon) -> float:
    """One sample and one class at a time, in float64."""
    p, t = logits.double().softmax(1), one_hot(label, logits.shape[1])
    samples = []
    for b in range(len(p)):
        error = {k: float(((t[b, k] - p[b, k]) ** 2).sum()) for k in classes_used}
        total = {k: float((t[b, k] ** 2).sum() + (p[b, k] ** 2).sum()) for k in classes_used}
        if reduction == "mean":
            ratios = [weights[k] * error[k] / (total[k] + epsilon) for k in classes_used]
            samples.append(sum(ratios) / sum(weights[k] for k in classes_used))
        else:
            numerator = sum(weights[k] * error[k] for k in classes_used)
            samples.append(numerator / (sum(weights[k] * total[k] for k in classes_used) + epsilon))
    return sum(samples) / len(samples)


@pytest.mark.parametrize("reduction", ["mean", "joint"])
@pytest.mark.parametrize("include_background", [True, False])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
@pytest.mark.parametrize(("size", "dtype"), [((5, 6, 7), torch.int64), ((9, 8), torch.uint8)])
def test_l2_dice_is_the_formula(reduction, include_background, weights, size, dtype):
    logits, label = random_case(size, dtype=dtype)
    loss = L2Dice(reduction, epsilon=0.1, include_background=include_background, class_weights=weights)(logits, label)
    used = range(0 if include_background else 1, 3)
    assert loss.item() == pytest.approx(
        plain_l2_dice(logits, label, reduction, used, weights or [1] * 3, 0.1), rel=1e-5
    )


def test_mean_and_joint_closed_forms():
    # Probabilities of 1/K everywhere; class k fills a fraction f of the voxels.
    label = torch.zeros(1, 100, dtype=torch.uint8)
    label[0, :2], label[0, 2] = 1, 2
    logits = torch.zeros(1, 4, 100)
    ratios = [(f + 1 / 16 - f / 2) / (f + 1 / 16) for f in (0.97, 0.02, 0.01, 0.0)]
    assert L2Dice("mean")(logits, label).item() == pytest.approx(sum(ratios) / 4, abs=1e-6)
    assert L2Dice("joint")(logits, label).item() == pytest.approx(3 / 5, abs=1e-6)
    assert sum(ratios) / 4 == pytest.approx(0.84, abs=0.005)  # the number in the docstring


def test_absent_class_costs_one_unless_its_probability_is_negligible():
    label = torch.zeros(1, 1000, dtype=torch.long)
    logits = torch.stack([torch.full((1, 1000), 6.0), torch.zeros(1, 1000)], dim=1)  # p(class 1) = 0.0025
    only_foreground = L2Dice(include_background=False)
    assert only_foreground(logits, label).item() == pytest.approx(1, abs=1e-3)
    assert only_foreground(10 * logits, label).item() < 1e-6
    assert L2Dice("joint")(logits, label).item() < 1e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_perfect_prediction_costs_nothing(loss):
    _, label = random_case()
    assert loss(100 * one_hot(label, 3).float(), label).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_dice_cross_entropy_is_the_sum_of_its_parts(weights):
    logits, label = random_case()
    p, t = logits.double().softmax(1), one_hot(label, 3)
    axes = (2, 3, 4)
    dice = 1 - (2 * (p * t).sum(axes) + 0.1) / (p.sum(axes) + t.sum(axes) + 0.1)
    weight = torch.tensor(weights or [1.0] * 3)
    dice_part = ((dice * weight).sum(1) / weight.sum()).mean().item()
    cross_entropy = F.cross_entropy(logits, label, weight=weight).item()
    loss = DiceCrossEntropy(dice_weight=0.3, cross_entropy_weight=2.0, smooth=0.1, class_weights=weights)
    assert loss(logits, label).item() == pytest.approx(0.3 * dice_part + 2 * cross_entropy, rel=1e-5)
    foreground = DiceCrossEntropy(1, 0, smooth=0.1, include_background=False)(logits, label).item()
    assert foreground == pytest.approx(dice[:, 1:].mean().item(), rel=1e-5)


@pytest.mark.parametrize("ignore_index", [-1, 255, 0])
@pytest.mark.parametrize("make", [L2Dice, lambda **k: L2Dice("joint", **k), DiceCrossEntropy])
def test_ignored_voxels_contribute_nothing(make, ignore_index):
    logits, label = random_case()
    kept = label[:, :3] if ignore_index else label[:, :3].clamp(min=1)
    label = torch.cat([kept, torch.full_like(label[:, 3:], ignore_index)], dim=1)
    logits.requires_grad_()
    loss = make(ignore_index=ignore_index)(logits, label)
    torch.testing.assert_close(loss, make()(logits[:, :, :3], kept))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[:, :, 3:].abs().max() == 0
    assert gradient[:, :, :3].abs().min() > 0
    all_ignored = make(ignore_index=ignore_index)(logits, torch.full_like(label, ignore_index))
    assert torch.isfinite(all_ignored)


def plain_dice_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    p, t = logits.softmax(1), one_hot(label, 3).float()
    dice = (2 * (p * t).sum((2, 3, 4)) + 1e-5) / ((p + t).sum((2, 3, 4)) + 1e-5)
    return 1 - dice.mean() + F.cross_entropy(logits, label)


def plain_l2(logits: Tensor, label: Tensor, axes: tuple[int, ...]) -> Tensor:
    p, t = logits.softmax(1), one_hot(label, 3).float()
    return (((t - p) ** 2).sum(axes) / ((t**2).sum(axes) + (p**2).sum(axes))).mean()


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (L2Dice(), lambda x, y: plain_l2(x, y, (2, 3, 4))),
        (L2Dice("joint"), lambda x, y: plain_l2(x, y, (1, 2, 3, 4))),
        (DiceCrossEntropy(), plain_dice_cross_entropy),
    ],
)
def test_gradient_is_that_of_the_plain_formula(loss, plain):
    logits, label = random_case()
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(plain(logits, label), logits)
    (found,) = torch.autograd.grad(loss(logits, label), logits)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("loss", [*LOSSES, L2Dice(class_weights=[0.1, 0.7, 0.3])])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(loss, dtype):
    # 80,000 voxels: sums above 65,504 are infinite in float16 and have two digits in bfloat16.
    logits, label = random_case((40, 40, 50))
    logits = logits.to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        found = loss(logits, label)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(logits.float(), label), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", [*LOSSES, L2Dice(ignore_index=2), DiceCrossEntropy(class_weights=[1.0, 2.0, 3.0])])
def test_losses_never_wait_for_the_device(loss):
    with FakeTensorMode(allow_non_fake_inputs=True):  # raises where a value is read
        logits, label = torch.zeros(2, 3, 4, 4, requires_grad=True), torch.zeros(2, 4, 4, dtype=torch.uint8)
        deep_supervision_loss([logits, logits[..., ::2, ::2]], label, loss).backward()
    assert logits.grad.shape == logits.shape


def saved_bytes_per_voxel_and_class(loss) -> float:
    logits, label = random_case((16, 16, 16), classes=4)
    logits.requires_grad_()
    storages: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        loss(logits, label)
    return sum(x.untyped_storage().nbytes() for x in storages.values()) / logits.numel()


def test_memory_kept_for_the_backward_pass():
    assert saved_bytes_per_voxel_and_class(L2Dice()) < 5.1  # float32 probabilities and a bool per class
    assert saved_bytes_per_voxel_and_class(DiceCrossEntropy()) < 9.1  # and the log-probabilities


def test_deep_supervision_weights_halve_and_sum_to_one():
    logits, label = random_case((8, 8, 8))
    levels = [logits, logits[..., ::2, ::2, ::2], logits[..., ::4, ::4, ::4]]
    seen = []

    def loss(level: Tensor, target: Tensor) -> Tensor:
        assert target.shape == (2, *level.shape[2:])
        seen.append(target)
        return torch.tensor(10.0 ** len(seen))

    assert deep_supervision_loss(levels, label, loss).item() == pytest.approx((4 * 10 + 2 * 100 + 1000) / 7)
    assert seen[0] is label


@pytest.mark.parametrize("size", [(4, 3, 5), (1, 6, 2), (8, 7, 9), (3, 2, 11)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_downsampled_label_takes_the_nearest_centres(size, dtype):
    label = random_case((8, 7, 11), dtype=dtype)[1]
    expected = F.interpolate(label[:, None].double(), size=size, mode="nearest-exact")[:, 0].to(dtype)
    assert torch.equal(downsample_label(label, size), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: L2Dice("sum"), "reduction: found 'sum'"),
        (lambda: L2Dice(epsilon=0), "epsilon: found 0"),
        (lambda: L2Dice(class_weights=[0.0, 0.0]), "class_weights"),
        (lambda: DiceCrossEntropy(0, 0), "dice_weight, cross_entropy_weight"),
        (lambda: DiceCrossEntropy(smooth=-1), "smooth: found -1"),
        (lambda: L2Dice(class_weights=[1.0, 2.0])(*random_case()), "found 2 weights for 3 classes"),
        (lambda: L2Dice()(random_case()[0], random_case((4, 6, 7))[1]), r"found shape \(2, 4, 6, 7\)"),
        (lambda: deep_supervision_loss([], random_case()[1], L2Dice()), "logits: found an empty list"),
        (lambda: downsample_label(random_case()[1], (4, 4)), "found 3 spatial axes; expected 2"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(PocketError, match=message):
        call()
