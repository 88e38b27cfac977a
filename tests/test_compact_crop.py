"""Kernels are cropped to what is not zero, thresholded ring by ring, and computed together where that is asked for."""

from __future__ import annotations

import itertools
import time
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from compact_families import CONV, FAMILIES, draw_statistics, kill, plain
from torch import Tensor, nn

from lightning_pocket.compact.convolution import Convolution
from lightning_pocket.compact.latency import FastestWay, fewest_parts, time_side_by_side
from lightning_pocket.compact.padding import pad
from lightning_pocket.compact.reduce import keep_sizes, reduce_network
from lightning_pocket.compact.rings import ring_of_taps, threshold
from lightning_pocket.compact.supports import centred, crop, cropped_padding, extent, groupings, hull, supports
from lightning_pocket.regularizers.rings import half_ring_boxes, ring_boxes, tap_levels
from lightning_pocket.speed import folded

FUNCTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
#: The ring of each tap, half rings from the top left: worked out by hand in the paper's figure 2 order.
HALF_RINGS_3 = [[1, 1, 1], [1, 3, 2], [1, 2, 2]]
HALF_RINGS_5 = [[1, 1, 1, 1, 1], [1, 3, 3, 3, 2], [1, 3, 5, 4, 2], [1, 3, 4, 4, 2], [1, 2, 2, 2, 2]]


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("taps", [3, 5])
@pytest.mark.parametrize("rings", ["full", "top_left", "bottom_right"])
def test_a_cropped_kernel_answers_as_the_whole_one(dims: int, taps: int, rings: Any) -> None:
    torch.manual_seed(0)
    level = ring_of_taps([taps] * dims, rings)
    x = torch.randn(2, 2, *(14, 13, 12)[:dims], dtype=torch.float64)
    for peeled in range(int(level.max())):
        weight = torch.randn(4, 2, *[taps] * dims, dtype=torch.float64) * (level > peeled)
        (box,) = set(supports(weight))
        assert len(set(extent(box))) == 1
        for stride, dilation, padding in itertools.product((1, 2), (1, 2), sorted({0, 1, taps // 2, taps})):
            whole = FUNCTION[dims](x, weight, None, stride, padding, dilation)
            sides = cropped_padding([[padding, padding]] * dims, [taps] * dims, [dilation] * dims, box)
            cropped = FUNCTION[dims](pad(x, sides, "zeros"), crop(weight, box), None, stride, 0, dilation)
            assert cropped.shape == whole.shape
            assert float((cropped - whole).abs().max()) <= 1e-13
            if rings == "full":
                assert all(before == after for before, after in sides)


def test_half_rings_are_those_of_the_paper() -> None:
    assert ring_of_taps([3, 3], "top_left").tolist() == HALF_RINGS_3
    assert ring_of_taps([5, 5], "top_left").tolist() == HALF_RINGS_5
    assert torch.equal(ring_of_taps([5, 5], "bottom_right"), ring_of_taps([5, 5], "top_left").flip(0, 1))
    assert ring_of_taps([5, 5], "full").tolist() == [
        [1, 1, 1, 1, 1], [1, 2, 2, 2, 1], [1, 2, 3, 2, 1], [1, 2, 2, 2, 1], [1, 1, 1, 1, 1],
    ]  # fmt: skip
    for taps in (3, 5, 7):
        half = ring_of_taps([taps] * 3, "top_left")
        assert [int((half <= n).sum()) for n in range(1, taps + 1)] == [
            taps**3 - (taps - n) ** 3 for n in range(1, taps + 1)
        ]


def test_only_the_longest_axes_of_a_flat_kernel_are_peeled() -> None:
    assert ring_of_taps([3, 3, 1], "full")[..., 0].tolist() == [[1, 1, 1], [1, 2, 1], [1, 1, 1]]
    assert ring_of_taps([1, 5], "full").tolist() == [[1, 2, 3, 2, 1]]
    assert ring_of_taps([1, 3], "top_left").tolist() == [[1, 3, 2]]
    for size in [(4, 3), (5, 3), (3, 5, 4), (5, 2)]:  # tau peels what training peels
        assert torch.equal(ring_of_taps(size, "full"), tap_levels(ring_boxes(size)) + 1)
        assert torch.equal(ring_of_taps(size, "top_left"), tap_levels(half_ring_boxes(size)) + 1)


def test_supports_by_brute_force() -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 3, 4, 3, 5) * (torch.rand(40, 3, 4, 3, 5) < 0.04)
    for kernel, box in zip(weight, supports(weight), strict=True):
        places = kernel.nonzero()[:, 1:].tolist()
        expected = tuple((min(axis), max(axis)) for axis in zip(*places, strict=True)) if places else None
        assert box == expected


def test_groupings_go_from_every_size_to_one() -> None:
    small, low, whole = ((1, 1), (1, 1)), ((0, 1), (0, 1)), ((0, 2), (0, 2))
    ways = groupings({small: 5, low: 2, whole: 1}, [3, 3])
    used = [sorted(set(way.values())) for way in ways]
    # 2 x 5 taps are added where the corner joins the whole, 5 x 3 where the middle joins the corner.
    assert used == [sorted([small, low, whole]), sorted([small, whole]), [whole]]
    ways = groupings({small: 1, low: 1, whole: 1}, [3, 3])
    used = [sorted(set(way.values())) for way in ways]
    # The last has symmetric padding: a corner of 2 x 2 taps becomes 3 x 3.
    assert used == [sorted([small, low, whole]), sorted([low, whole]), [whole], sorted([small, whole])]
    assert all(hull([box, target]) == target for way in ways for box, target in way.items())
    assert centred(((0, 1), (1, 1)), [3, 3]) == ((0, 2), (1, 1))


def test_kernels_of_different_sizes_are_computed_apart_or_together() -> None:
    torch.manual_seed(0)
    network = plain(2).double().eval()
    weight = network[1][0].weight.data
    inner, corner = ((1, 1), (1, 1)), ((0, 1), (0, 1))
    for kernel, box in zip(weight, [inner, inner, corner, corner, None, None], strict=True):
        if box is not None:
            kept = crop(kernel, box).clone()
            kernel.zero_()
            crop(kernel, box).copy_(kept)
    x = torch.randn(1, 2, 11, 12, dtype=torch.float64)
    seen: list[list[Any]] = []

    def remember(ways: Any, shape: Any) -> int:
        seen.append([shape, *ways])
        return 1

    for choose in (keep_sizes, fewest_parts, remember, FastestWay()):
        reduced = reduce_network(network, (2, 11, 12), choose).network
        with torch.no_grad():
            assert float((reduced(x) - network(x)).abs().max()) < 1e-14
        layer = reduced.get_submodule("body.1.0")
        if choose is keep_sizes:
            assert isinstance(layer, Convolution)
            assert sorted(tuple(part.weight.shape) for part in layer.parts) == [
                (2, 6, 1, 1),
                (2, 6, 2, 2),
                (2, 6, 3, 3),
            ]
        if choose is fewest_parts:
            assert isinstance(layer, nn.Conv2d)
            assert layer.weight.shape == (6, 6, 3, 3)
    assert seen[0][0] == (6, 11, 12)
    assert [len(way["parts"]) for way in seen[0][1:]] == [3, 2, 1, 2]


def test_the_fastest_way_is_chosen_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([[3.0, 1.0, 2.0], [1.0, 5.0]])
    monkeypatch.setattr("lightning_pocket.compact.latency.time_side_by_side", lambda *_: next(times))
    ways = [_way(3, 0), _way(1, -1), _way(1, 0)]
    choose = FastestWay()
    assert choose(ways, (2, 8, 8)) == 1
    assert choose(ways, (2, 8, 8)) == 1  # remembered
    assert choose(ways[:2], (2, 8, 8)) == 0


def _way(taps: int, side: int) -> dict[str, Any]:
    part = {"select": None, "groups": 1, "in": 2, "out": 2, "kernel": [taps] * 2, "padding": [[side, side]] * 2}
    common = {"free": 0, "bias": True, "border": None, "output_padding": None, "mode": "zeros"}
    return common | {"parts": [part], "stride": [1, 1], "dilation": [1, 1]}


def test_times_are_taken_in_turns() -> None:
    calls: list[str] = []
    times = time_side_by_side([lambda: calls.append("a"), lambda: calls.append("b")], rounds=2)
    assert calls == ["a", "a", "b", "b"] * 3
    assert all(time >= 0 for time in times)


def test_what_ran_before_does_not_count() -> None:
    last = [0]

    def call(own: int) -> None:
        time.sleep(0.001 if last[0] == own else 0.03)  # the caches are those of another one
        last[0] = own

    assert max(time_side_by_side([partial(call, own) for own in range(3)], rounds=3, summary=min)) < 15


def test_what_takes_long_is_not_made_twice() -> None:
    calls: list[str] = []

    def call() -> None:
        calls.append("a")
        time.sleep(0.21)

    time_side_by_side([call], rounds=1)
    assert calls == ["a", "a"]


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_are_folded_into_every_kind_of_convolution(family: str) -> None:
    torch.manual_seed(0)
    network = FAMILIES[family](2).double().eval()
    draw_statistics(network)
    kill(network, 0.2)
    reduced = reduce_network(network, (2, 12, 12)).network
    x = torch.randn(2, 2, 16, 12, dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(reduced.outputs(x), folded(reduced).outputs(x), strict=True):
            assert float((one - other).abs().max()) < 1e-12 * float(one.abs().max().clamp_min(1e-300))


def test_a_norm_is_folded_into_a_transposed_convolution() -> None:
    torch.manual_seed(0)
    conv, norm = nn.ConvTranspose2d(6, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(6)
    network = nn.Sequential(nn.Conv2d(2, 6, 3), nn.Sequential(conv, norm), nn.Conv2d(6, 3, 1)).double().eval()
    draw_statistics(network)
    network[0].weight.data[2] = 0  # a constant, so that there is a border map
    reduced = reduce_network(network, (2, 12, 12)).network
    faster = folded(reduced)
    assert isinstance(faster.get_submodule("body.1.1"), nn.Identity)
    x = torch.randn(2, 2, 12, 12, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(faster(x), network(x), rtol=1e-12, atol=1e-12)


def folded_norms(conv: nn.Module, norm: nn.Module) -> Tensor:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (conv.weight * scale.reshape(-1, *[1] * (conv.weight.ndim - 1))).flatten(1).norm(dim=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_tau_is_compared_with_the_kernel_behind_its_batch_norm(dims: int) -> None:
    torch.manual_seed(0)
    network = plain(dims).double().eval()
    draw_statistics(network)
    norms = folded_norms(network[1][0], network[1][1]).detach()
    tau = float(norms.sort().values[2:4].mean())
    before = network[1][0].weight.detach().clone()
    shaved = threshold(network, (2, *[8] * dims), tau)
    dead = ~shaved[1][0].weight.flatten(1).any(1)
    assert dead.tolist() == (norms <= tau).tolist()
    assert dead.sum() == 3
    assert torch.equal(network[1][0].weight, before)
    assert torch.equal(shaved[-1].weight, network[-1].weight)  # the head makes the output
    unchanged = threshold(network, (2, *[8] * dims), 0.0)
    assert all(map(torch.equal, unchanged.state_dict().values(), network.state_dict().values()))


@pytest.mark.parametrize("rings", ["full", "top_left", "bottom_right"])
def test_tau_removes_the_largest_union_of_outer_rings_below_it(rings: Any) -> None:
    torch.manual_seed(0)
    network = plain(2, "none", kernel=5).double().eval()
    weight = network[1][0].weight.data
    level = ring_of_taps([5, 5], rings)
    weight *= 10.0 ** (level - level.max())  # outer rings are weak
    tau = 0.05
    shaved = threshold(network, (2, 12, 12), tau, rings)[1][0].weight
    for kernel, kept in zip(weight, shaved, strict=True):
        norms = [float((kernel * (level <= n)).norm()) for n in range(int(level.max()) + 1)]
        peeled = max(n for n, norm in enumerate(norms) if norm <= tau)
        assert torch.equal(kept, kernel * (level > peeled))
    assert {extent(box) for box in supports(shaved)} != {(5, 5)}


def test_unpadded_constants_need_no_border() -> None:
    """A constant that only the middle taps see is a bias, whatever the padding of the layer."""
    torch.manual_seed(0)
    network = plain(2).double().eval()
    draw_statistics(network)
    network[0][0].weight.data[:3] = 0
    kept = network[1][0].weight.data[:, :3, 1:2, 1:2].clone()
    network[1][0].weight.data[:, :3] = 0
    network[1][0].weight.data[:, :3, 1:2, 1:2] = kept
    reduced = reduce_network(network, (2, 9, 9)).network
    assert not [name for name in reduced.state_dict() if "border" in name]
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        assert float((reduced(x) - network(x)).abs().max()) < 1e-13


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_one_dimension_is_reduced_too(dims: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(CONV[dims](2, 6, 3, padding=1), nn.ReLU(), CONV[dims](6, 3, 5, padding=2)).double().eval()
    network[0].weight.data[1:3] = 0
    network[0].weight.data[:, :, :1] = 0
    reduced = reduce_network(network, (2, *[9] * dims)).network
    x = torch.randn(1, 2, *[11] * dims, dtype=torch.float64)
    with torch.no_grad():
        assert float((reduced(x) - network(x)).abs().max()) < 1e-13
