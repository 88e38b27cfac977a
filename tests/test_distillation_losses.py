"""Losses of distillation against closed forms and loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from lightning_pocket.errors import PocketError
from lightning_pocket.losses import hint_loss, similarity_loss, soft_target_loss


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_gradients_of_soft_targets(temperature: float) -> None:
    """T (softmax(s / T) - softmax(t / T)) / B with the square of T."""
    student, teacher = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    soft_target_loss(student, teacher, temperature, squared=True).backward()
    difference = (student / temperature).softmax(1) - (teacher / temperature).softmax(1)
    torch.testing.assert_close(student.grad, temperature * difference / 5, rtol=1e-4, atol=1e-6)
    assert teacher.grad is None


def test_the_loss_of_soft_targets_is_summed_over_classes() -> None:
    student, teacher = torch.randn(3, 4, 2, 5), torch.randn(3, 4, 2, 5)
    expected = 0.0
    for b in range(3):
        for h in range(2):
            for w in range(5):
                q, p = (x[b, :, h, w].div(3).softmax(0).tolist() for x in (student, teacher))
                expected += sum(a * (math.log(a) - math.log(c)) for a, c in zip(p, q, strict=True)) / 30
    assert soft_target_loss(student, teacher, 3.0).item() == pytest.approx(expected, rel=1e-4)
    assert soft_target_loss(student, teacher, 3.0, squared=True).item() == pytest.approx(9 * expected, rel=1e-4)
    assert soft_target_loss(teacher, teacher, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_gradients_do_not_change_with_the_size_of_images() -> None:
    logits, answer = torch.randn(2, 3), torch.randn(2, 3)
    gradients = []
    for size in ((1, 1), (4, 6), (3, 2, 5)):
        one = [1] * len(size)
        student = logits.reshape(2, 3, *one).clone().requires_grad_()
        teacher = answer.reshape(2, 3, *one).expand(2, 3, *size)
        soft_target_loss(student.expand(2, 3, *size), teacher, 4.0, squared=True).backward()
        gradients.append(student.grad.flatten(1))
    flat = logits.clone().requires_grad_()
    soft_target_loss(flat, answer, 4.0, squared=True).backward()
    for gradient in gradients:
        torch.testing.assert_close(gradient, flat.grad)


def test_voxels_that_do_not_count() -> None:
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    counted = torch.zeros(2, 4, 4, dtype=torch.bool)
    counted[0, 1:3] = True
    some = soft_target_loss(student, teacher, counted_BS=counted)
    torch.testing.assert_close(some, soft_target_loss(student[:1, :, 1:3], teacher[:1, :, 1:3]))
    assert soft_target_loss(student, teacher, counted_BS=torch.zeros_like(counted)) == 0
    with pytest.raises(PocketError, match="trained on the same classes"):
        soft_target_loss(student, teacher[:, :2])


def test_similarities_of_two_images() -> None:
    """Rows of the neighbourhood of two images with cosine c are 1 and (1 + c) / 2, over their sum."""

    def row(cosine: float) -> list[float]:
        near = [1.0, (1 + cosine) / 2]
        return [value / sum(near) for value in near]

    eps = 1e-7
    student, teacher = torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([[1.0, 0, 0], [-0.6, 0.8, 0]])
    q, p = row(0.0), row(-0.6)
    expected = sum(a * math.log((a + eps) / (b + eps)) for a, b in zip(p, q, strict=True)) / 2  # 2 of 4 are alike
    assert similarity_loss(student, teacher, eps).item() == pytest.approx(expected, rel=1e-4)
    assert similarity_loss(5 * teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert similarity_loss(student[:1], teacher[:1]).item() == pytest.approx(0, abs=1e-6)


def test_similarities_are_a_mean_over_all_pairs() -> None:
    student, teacher = torch.randn(6, 4), torch.randn(6, 9)
    near = [F.cosine_similarity(x[:, None], x[None], dim=2).add(1).div(2) for x in (student, teacher)]
    q, p = (x / x.sum(1, keepdim=True) for x in near)
    expected = sum(float(p[i, j] * (p[i, j] / q[i, j]).log()) for i in range(6) for j in range(6)) / 36
    assert similarity_loss(student, teacher).item() == pytest.approx(expected, rel=1e-3)


def test_hints() -> None:
    one, other = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    pooled = one.reshape(2, 3, 2, 2, 2, 2).mean((3, 5))
    expected = (pooled - other).square().sum() / (2 * 3 * 2 * 2)
    torch.testing.assert_close(hint_loss(one, other), expected)
    torch.testing.assert_close(hint_loss(other, one), expected)
    assert hint_loss(torch.ones(2, 3), torch.zeros(2, 3)) == 1
    with pytest.raises(PocketError, match="the same number of channels"):
        hint_loss(one, other[:, :2])
