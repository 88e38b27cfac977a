"""Groups and proxes of the sparsity penalties, against naive composition, dual certificates and published counts."""

from itertools import product

import pytest
import torch

from lightning_pocket.errors import PocketError
from lightning_pocket.regularizers import KernelNumber, KernelSize
from lightning_pocket.regularizers.prox import group_weight, prox_group, prox_nested
from lightning_pocket.regularizers.rings import box_extents, half_ring_boxes, ring_boxes, tap_levels, whole_boxes

SIZES = [
    (3,),
    (5,),
    (7,),
    (3, 3),
    (5, 5),
    (7, 7),
    (4, 4),
    (3, 3, 3),
    (5, 5, 5),
    (3, 3, 1),
    (1, 5, 3),
    (2, 2, 2),
    (5, 5, 2),
    (4, 3),
]
#: Numbers of taps of the nested groups, counted by hand, per input channel.
HALF_RINGS = {3: [5, 8, 9], 5: [9, 16, 21, 24, 25], 7: [13, 24, 33, 40, 45, 48, 49]}
RINGS = {3: [8, 9], 5: [16, 24, 25], 7: [24, 40, 48, 49]}
MAP_OF_5 = [[1, 1, 1, 1, 1], [1, 3, 3, 3, 2], [1, 3, 5, 4, 2], [1, 3, 4, 4, 2], [1, 2, 2, 2, 2]]
KINDS = ["rings", "top_left", "bottom_right"]


@pytest.fixture(autouse=True)
def double_precision():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def boxes_of(kind, size):
    return ring_boxes(size) if kind == "rings" else half_ring_boxes(size, kind)


def groups_of(boxes):
    """Yield the nested groups as boolean masks: all taps that are outside of each box."""
    for box in boxes[1:]:
        inside = torch.zeros([end for _, end in boxes[0]], dtype=torch.bool)
        inside[tuple(slice(*sides) for sides in box)] = True
        yield ~inside


@pytest.mark.parametrize("side", [3, 5, 7])
def test_groups_have_the_published_numbers_of_taps(side):
    assert [int(group.sum()) for group in groups_of(half_ring_boxes((side, side)))] == HALF_RINGS[side]
    assert [int(group.sum()) for group in groups_of(ring_boxes((side, side)))] == RINGS[side]
    for axes in (1, 2, 3):
        counts = [int(group.sum()) for group in groups_of(half_ring_boxes((side,) * axes))]
        assert counts == [side**axes - (side - n) ** axes for n in range(1, side + 1)]


def test_half_rings_begin_at_the_corner_that_is_named():
    assert (tap_levels(half_ring_boxes((5, 5))) + 1).tolist() == MAP_OF_5
    opposite = tap_levels(half_ring_boxes((5, 5), "bottom_right")) + 1
    assert opposite.flip(0, 1).tolist() == MAP_OF_5
    for n in range(1, 4):  # a ring is two half-rings
        both = list(groups_of(half_ring_boxes((7, 7))))[2 * n - 1]
        assert torch.equal(both, list(groups_of(ring_boxes((7, 7))))[n - 1])


@pytest.mark.parametrize(("kind", "size"), list(product(KINDS, SIZES)))
def test_rings_are_nested_and_partition_the_kernel(kind, size):
    boxes = boxes_of(kind, size)
    levels, groups = tap_levels(boxes), list(groups_of(boxes))
    assert levels.shape == size
    assert sorted(set(levels.flatten().tolist())) == list(range(len(groups)))  # no ring is empty
    for n, group in enumerate(groups):
        assert torch.equal(levels <= n, group)
    assert groups[-1].all()
    extents = box_extents(boxes)
    assert extents[0] == max(size)
    assert extents[-1] == 0
    assert torch.equal(extents, extents.sort(descending=True).values)
    if kind != "rings":
        assert extents.tolist() == list(range(max(size), -1, -1))


def test_an_axis_is_peeled_only_while_it_is_the_longest():
    left = [[end - begin for begin, end in box] for box in half_ring_boxes((5, 3))]
    assert left == [[5, 3], [4, 3], [3, 3], [2, 2], [1, 1], [0, 0]]
    assert [[end - begin for begin, end in box] for box in ring_boxes((3, 3, 1))] == [[3, 3, 1], [1, 1, 1], [0, 0, 0]]
    # Two taps have no middle: they stay until nothing is left.
    assert [[end - begin for begin, end in box] for box in ring_boxes((5, 2))] == [[5, 2], [3, 2], [1, 2], [0, 0]]


def naive(kernels, boxes, strengths, norm="l2"):
    """Shrink one group of one kernel after the other, the smallest first."""
    found = kernels.clone()
    for group, strength in zip(groups_of(boxes), strengths, strict=True):
        for kernel in found:
            values = kernel[:, group]
            kernel[:, group] = values - project(values.flatten(), float(strength), norm).view_as(values)
    return found


def project(values, radius, norm):
    """Project on the ball of the dual norm; the l1 ball by bisection of the soft threshold."""
    if norm == "l2":
        return values * min(1.0, radius / max(float(values.norm()), 1e-300))
    if values.abs().sum() <= radius:
        return values
    low, high = 0.0, float(values.abs().max())
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if (values.abs() - middle).clamp_min(0).sum() > radius else (low, middle)
    return values.sign() * (values.abs() - low).clamp_min(0)


@pytest.mark.parametrize(("kind", "size"), list(product(KINDS, SIZES)))
def test_nested_prox_has_no_duality_gap_and_leaves_crops(kind, size):
    boxes = boxes_of(kind, size)
    groups, levels = list(groups_of(boxes)), tap_levels(boxes)
    kernels = torch.randn(20, 3, *size) * torch.rand(20, 1, *[1] * len(size)) * 2
    for strength in (0.05, 0.5, 1.5):
        weights = strength * (0.5 + torch.rand(20, len(groups)))
        found = prox(kernels, levels, weights)
        # The dual points are what the naive composition takes away, projected on balls: feasible by construction.
        rest, removed, value = kernels.clone(), torch.zeros_like(kernels), 0.0
        for n, group in enumerate(groups):
            xi = torch.zeros_like(rest)
            for j in range(len(rest)):
                xi[j][:, group] = project(rest[j][:, group].flatten(), float(weights[j, n]), "l2").view(3, -1)
            rest, removed = rest - xi, removed + xi
            value = value + (weights[:, n] * found[:, :, group].flatten(1).norm(dim=1)).sum()
        primal = 0.5 * (found - kernels).square().sum() + value
        dual = 0.5 * kernels.square().sum() - 0.5 * (kernels - removed).square().sum()
        assert abs(float((primal - dual) / primal)) < 1e-10
        # A zero group is a prefix, so that what is left is one of the boxes.
        alive = found.abs().amax(1) > 0
        for pattern in alive:
            assert any(torch.equal(pattern, ~group) for group in [torch.zeros_like(groups[0]), *groups])


def prox(kernels, levels, weights, norm="l2"):
    """Take the prox of all groups, the root by itself as the library does in other metrics."""
    inner = prox_nested(kernels, levels, weights[:, :-1], torch.ones(1, 1), norm)
    return prox_group(inner.flatten(1), weights[:, -1], torch.ones(1, 1), norm).view_as(kernels)


@pytest.mark.parametrize("norm", ["l2", "l_infinity"])
def test_nested_prox_is_the_naive_composition_and_the_other_order_is_worse(norm):
    boxes = half_ring_boxes((5, 5))
    groups = list(groups_of(boxes))
    kernels, strengths = torch.randn(6, 2, 5, 5), torch.tensor([1.0, 0.4, 0.7, 0.2, 0.9])
    found = prox(kernels, tap_levels(boxes), strengths.expand(6, -1), norm)
    assert (found - naive(kernels, boxes, strengths, norm)).abs().max() < 1e-12

    def objective(x):
        order = 2 if norm == "l2" else float("inf")
        parts = [
            s * torch.linalg.vector_norm(x[:, :, g].flatten(1), order, dim=1)
            for s, g in zip(strengths, groups, strict=True)
        ]
        return float(0.5 * (x - kernels).square().sum() + torch.stack(parts).sum())

    backwards = kernels.clone()
    for group, strength in reversed(list(zip(groups, strengths, strict=True))):
        for kernel in backwards:
            values = kernel[:, group]
            kernel[:, group] = values - project(values.flatten(), float(strength), norm).view_as(values)
    best = objective(found)
    assert objective(backwards) > best + 1e-3
    assert all(objective(found + 1e-3 * torch.randn_like(found)) > best for _ in range(300))


@pytest.mark.parametrize("norm", ["l2", "l_infinity"])
@pytest.mark.parametrize("kind", KINDS)
def test_nested_prox_is_firmly_non_expansive(norm, kind):
    boxes = boxes_of(kind, (5, 5))
    weights = 0.5 * torch.rand(30, len(boxes) - 1)
    a, b = torch.randn(2, 30, 2, 5, 5)
    moved = prox(a, tap_levels(boxes), weights, norm) - prox(b, tap_levels(boxes), weights, norm)
    inner, square = (moved * (a - b)).flatten(1).sum(1), moved.flatten(1).square().sum(1)
    assert (square <= inner + 1e-12).all()
    assert (square > 0).any()


@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_l2_prox_in_a_diagonal_metric_meets_its_optimality_conditions(spread, scale):
    values = scale * torch.randn(200, 40)
    metric = 10 ** (spread * (2 * torch.rand(200, 40) - 1))
    weights = torch.rand(200) * 1.2 * (metric * values).norm(dim=1)
    found = prox_group(values, weights, metric)
    length = found.norm(dim=1)
    alive = length > 0
    assert torch.equal(alive, (metric * values).norm(dim=1) > weights)  # |D v| <= weight is what zero needs
    slope = metric * (found - values) + weights[:, None] * found / length.clamp_min(1e-300)[:, None]
    assert (slope.norm(dim=1)[alive] / weights[alive]).max() < 1e-10
    assert 0 < alive.sum() < 200


@pytest.mark.parametrize("rate", [1e-9, 1e-11, 1e-14])
def test_l2_prox_stays_a_number_where_the_rate_is_close_to_zero(rate):
    values = torch.randn(20, 40, dtype=torch.float32)
    metric = 1e-2 * (0.1 + torch.rand(20, 40, dtype=torch.float32)) / rate
    found = prox_group(values, torch.full((20,), 1e-3, dtype=torch.float32), metric)
    assert torch.allclose(found, values, atol=1e-6)


def test_l2_prox_in_one_metric_for_all_is_soft_thresholding_of_the_norm():
    values, weights = torch.randn(50, 8), torch.rand(50) * 5
    expected = values * (1 - weights / 2 / values.norm(dim=1)).clamp_min(0)[:, None]
    assert torch.allclose(prox_group(values, weights, torch.full((1, 1), 2.0)), expected, atol=1e-14)
    assert torch.allclose(prox_group(values, weights, torch.full((50, 8), 2.0)), expected, atol=1e-12)


def test_l_infinity_prox_is_moreau_s_and_clips_in_a_diagonal_metric():
    values, weights = torch.randn(60, 9), torch.rand(60) * 8
    found = prox_group(values, weights, torch.ones(1, 1), "l_infinity")
    for row, weight, result in zip(values, weights, found, strict=True):
        assert torch.allclose(result, row - project(row, float(weight), "l_infinity"), atol=1e-12)
    metric = 0.1 + torch.rand(60, 9)
    found = prox_group(values, weights, metric, "l_infinity")
    pulled = (metric * (values - found)).abs().sum(1)
    alive = found.abs().amax(1) > 0
    assert torch.allclose(pulled[alive], weights[alive], atol=1e-12)  # the subgradient has the dual norm 1
    assert ((metric * values).abs().sum(1)[~alive] <= weights[~alive] + 1e-12).all()
    largest = found.abs().amax(1, keepdim=True)
    unmoved = (found.abs() < largest - 1e-12) & alive[:, None]
    assert torch.equal(found[unmoved], values[unmoved])
    assert 0 < alive.sum() < 60


def solve_slowly(kernels, groups, weights, metric):
    """Minimise the prox objective of one kernel with a smoothed penalty and L-BFGS."""
    x = kernels.clone().requires_grad_()
    for smoothing in (1e-4, 1e-8, 1e-14):
        optimizer = torch.optim.LBFGS(
            [x], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
        )

        def closure(optimizer=optimizer, smoothing=smoothing):
            optimizer.zero_grad()
            value = 0.5 * (metric * (x - kernels).square()).sum()
            for group, weight in zip(groups, weights, strict=True):
                value = value + weight * (x[:, group].square().sum() + smoothing).sqrt()
            value.backward()
            return value

        optimizer.step(closure)
    return x.detach()


@pytest.mark.parametrize("size", [(5,), (3, 3), (3, 3, 3)])
def test_nested_prox_is_what_a_slow_solver_finds(size):
    boxes = half_ring_boxes(size)
    groups = list(groups_of(boxes))
    kernels, weights = torch.randn(4, 2, *size), 0.6 * torch.rand(4, len(groups))
    found = prox(kernels, tap_levels(boxes), weights)
    for j in range(4):
        slow = solve_slowly(kernels[j], groups, weights[j], 1.0)
        assert (slow - found[j]).abs().max() < 1e-5


def test_group_weights_are_those_of_the_equations():
    counts = torch.tensor([9, 16, 25])
    assert torch.allclose(group_weight("group_normalized", counts), torch.tensor([1 / 3, 1 / 4, 1 / 5]))
    assert torch.allclose(group_weight("group_scaled", counts), torch.tensor([3.0, 4.0, 5.0]))
    assert group_weight("l2", counts).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(PocketError, match=r"regularizer.norm: found 'l3', expected one of l2, "):
        group_weight("l3", counts)


def test_the_groups_of_the_regularizers():
    assert KernelNumber().boxes((5, 5)) == whole_boxes((5, 5))
    assert KernelSize().boxes((5, 5)) == ring_boxes((5, 5))
    assert KernelSize("half_rings", "bottom_right").boxes((5, 5)) == half_ring_boxes((5, 5), "bottom_right")
    with pytest.raises(PocketError, match=r"regularizer\.groups: found 'squares'"):
        KernelSize("squares")
