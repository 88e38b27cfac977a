"""Expanded layers against the layers that they stand for, one factor after another, at every border."""

import copy
import math
from collections.abc import Callable
from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import ExpandedConv, ExpandedLinear, Expansion, contracted_weight, contraction, last_factor
from lightning_pocket.layers.contraction import contract_kernels, contraction_macs
from lightning_pocket.layers.exact_factors import make_exact
from lightning_pocket.layers.expansion import chain_kernels

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
CHANNELS = {"dense": (3, 4, 1), "groups": (4, 6, 2), "depthwise": (4, 4, 4)}
dims = pytest.mark.parametrize("dim", [1, 2, 3])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def noise(channels: int, dim: int, more: int = 0) -> Tensor:
    return torch.randn(
        2, channels, *(size + more for size in ((13, 11), (13, 11), (9, 7, 8))[dim - 1][:dim]), dtype=torch.float64
    )


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    found, expected = found.detach(), expected.detach()
    return float((found - expected).abs().max() / expected.abs().max())


def one_by_one(layer: ExpandedConv, x: Tensor) -> Tensor:
    """What the factors make of an image, called as torch calls its layers."""
    return nn.Sequential(*copy.deepcopy(layer.factors))(x)


def check(conv: nn.Module, expansion: Expansion, dim: int) -> None:
    """The row, the fused layer and the contracted one agree on two sizes, in float64 and in float32."""
    double = copy.deepcopy(conv).double()
    layer = ExpandedConv(double, expansion)
    plain = layer.contracted()
    assert repr(plain) == repr(double)
    with torch.no_grad():
        for more in (0, 3):
            x = noise(conv.in_channels, dim, more)
            expected = one_by_one(layer, x)
            assert expected.shape == double(x).shape
            assert difference(layer(x), expected) < 1e-13
            assert difference(plain(x), expected) < 1e-13
            single = copy.deepcopy(layer).float()
            assert difference(single.contracted()(x.float()).double(), expected) < 1e-5
            assert difference(single(x.float()).double(), expected) < 1e-5


@dims
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("conv", "kernel"), [("cl", 1), ("cl", 2), ("cl", 3), ("cl", 5), ("ck", 5), ("ck", 7)])
def test_contraction_is_exact(dim: int, channels: str, conv: str, kernel: int) -> None:
    before, after, groups = CHANNELS[channels]
    if dim == 3 and kernel == 7:
        kernel = 5
    modes = ["zeros", "reflect", "replicate", "circular"]
    for stride, dilation, bias in product((1, 2, 3), (1, 2), ("last", "all")):
        if dilation * (kernel - 1) >= 7 and dim == 3:
            continue
        mode = modes[(stride + dilation + (bias == "all")) % 4]
        pad = min(dilation * (kernel // 2), 8)
        plain = CONV[dim](before, after, kernel, stride, pad, dilation, groups, padding_mode=mode)
        check(plain, Expansion(conv, rate=2, bias=bias), dim)


@dims
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("conv", "kernel"), [("cl", 3), ("ck", 5)])
def test_every_padding_mode_with_every_bias(dim: int, mode: str, conv: str, kernel: int) -> None:
    for bias, pad in product(("last", "all"), (0, 1, kernel // 2)):
        check(CONV[dim](2, 3, kernel, padding=pad, padding_mode=mode), Expansion(conv, rate=1.5, bias=bias), dim)
    check(CONV[dim](2, 3, kernel, padding="same", padding_mode=mode), Expansion(conv, rate=2), dim)
    check(CONV[dim](2, 3, kernel, padding="valid", bias=False), Expansion(conv, rate=2), dim)


@dims
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("conv", "kernel"), [("cl", 1), ("cl", 2), ("cl", 3), ("cl", 4), ("ck", 5), ("ck", 7)])
def test_transposed_contraction_is_exact(dim: int, channels: str, conv: str, kernel: int) -> None:
    before, after, groups = CHANNELS[channels]
    if dim == 3 and kernel == 7:
        kernel = 5
    for stride, dilation in product((1, 2, 3), (1, 2)):
        for pad, more in ((kernel // 2, 0), (stride % 2, max(stride, dilation) - 1)):
            plain = TRANSPOSED[dim](before, after, kernel, stride, pad, more, groups, dilation=dilation)
            check(plain, Expansion(conv, rate=2), dim)


@pytest.mark.parametrize("conv", ["cl", "ck"])
@pytest.mark.parametrize("kind", ["conv", "transposed"])
def test_kernels_that_differ_along_the_axes(conv: str, kind: str) -> None:
    for kernel in ((5, 3), (1, 7), (3, 5), (7, 5)):
        how = {"stride": (1, 2), "padding": (kernel[0] // 2, 0), "bias": False}
        plain = (CONV if kind == "conv" else TRANSPOSED)[2](2, 3, kernel, **how)
        check(plain, Expansion(conv, rate=2), 2)


def test_ck_divides_kernels_into_kernels_of_three() -> None:
    assert chain_kernels("ck", (7, 7)) == [(3, 3)] * 3
    assert chain_kernels("ck", (7, 3, 1)) == [(3, 3, 1), (3, 1, 1), (3, 1, 1)]
    assert chain_kernels("cl", (4, 4)) == [(1, 1), (4, 4), (1, 1)]
    layer = ExpandedConv(nn.Conv2d(3, 8, 7), Expansion("ck", rate=4))
    assert [factor.weight.shape[:2] for factor in layer.factors] == [(12, 3), (32, 12), (8, 32)]


def test_kernels_compose_as_their_definition_says() -> None:
    first, second = torch.randn(4, 2, 3, 3, dtype=torch.float64), torch.randn(5, 4, 3, 2, dtype=torch.float64)
    expected = torch.zeros(5, 2, 5, 4, dtype=torch.float64)
    for o, c, i in product(range(5), range(4), range(2)):
        for a, b in product(product(range(3), range(3)), product(range(3), range(2))):
            expected[o, i, a[0] + b[0], a[1] + b[1]] += second[o, c][b] * first[c, i][a]
    assert torch.allclose(contract_kernels([first, second]), expected, rtol=0, atol=1e-12)


def test_the_cheaper_end_is_multiplied_first() -> None:
    shapes = [(40, 2, 1), (40, 40, 3), (2, 40, 1)]  # narrow ends: m r m + n against r n + m
    assert contraction_macs(shapes) == 3 * (40 * 40 * 2 + 2 * 40 * 2)
    wide_end, wide_start = [(8, 2, 1), (16, 8, 5), (16, 16, 1)], [(16, 16, 1), (16, 16, 5), (2, 16, 1)]
    assert contraction_macs(wide_end) == 5 * (16 * 8 * 2 + 16 * 16 * 2)
    assert contraction_macs(wide_start) == 5 * (2 * 16 * 16 + 2 * 16 * 16)
    kernels = [torch.randn(shape, dtype=torch.float64) for shape in wide_start]
    products = torch.einsum("nq,qpk,pm->nmk", kernels[2][..., 0], kernels[1], kernels[0][..., 0])
    assert torch.allclose(contract_kernels(kernels), products)


@pytest.mark.parametrize("kernels", [[1, 3, 1], [3, 3], [3, 3, 3]])
@pytest.mark.parametrize("widths", [(3, 12, 32, 8), (8, 32, 12, 3), (4, 8, 8, 4)])
def test_as_many_operations_as_it_says(kernels: list[int], widths: tuple[int, ...]) -> None:
    """Torch's own counter sees what is computed."""
    chain = [widths[0], *widths[-len(kernels) :]]
    weights = [torch.randn(o, i, k, k) for i, o, k in zip(chain, chain[1:], kernels, strict=False)]
    with FlopCounterMode(display=False) as counter:
        contract_kernels(weights)
    assert counter.get_total_flops() / 2 == contraction_macs([weight.shape for weight in weights])


def test_linear_layers() -> None:
    for bias in ("last", "all"):
        layer = ExpandedLinear(nn.Linear(6, 3, dtype=torch.float64), Expansion(linear=True, rate=1.5, bias=bias))
        assert [tuple(factor.weight.shape) for factor in layer.factors] == [(9, 6), (4, 9), (3, 4)]
        x = torch.randn(5, 2, 6, dtype=torch.float64)
        expected = nn.Sequential(*layer.factors)(x)
        assert difference(layer(x), expected) < 1e-14
        assert difference(layer.contracted()(x), expected) < 1e-14
        assert [factor.bias is not None for factor in layer.factors] == [bias == "all"] * 2 + [True]


@pytest.mark.parametrize(
    ("conv", "expansion", "reason"),
    [
        (nn.Conv2d(2, 2, 3), {"conv": "ck"}, "is one already"),
        (nn.Conv2d(2, 2, 6), {"conv": "ck"}, "even"),
        (nn.Conv2d(2, 2, 4, padding="same"), {"conv": "cl"}, "on one side"),
        (nn.ConvTranspose2d(2, 2, 3), {"conv": "cl", "bias": "all"}, "pattern"),
    ],
)
def test_what_would_not_be_exact_is_refused(conv: nn.Module, expansion: dict[str, str], reason: str) -> None:
    with pytest.raises(PocketError, match=reason):
        ExpandedConv(conv, Expansion(**expansion))


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(PocketError, match=r"rate: found 0"):
        Expansion("cl", rate=0)
    for rate in (math.nan, math.inf):
        with pytest.raises(PocketError, match=rf"rate: found {rate}"):
            Expansion("cl", rate=rate)
    with pytest.raises(PocketError, match="no kernel"):
        Expansion("cl", mode="nonlinear", init="exact")


EXACT = [
    ("cl", 3, 1.0, 2),
    ("cl", 2, 1.5, 3),
    ("ck", 5, 4.0, 2),
    ("ck", 7, 4.0, 2),
    ("ck", 9, 4.0, 2),
    ("ck", 5, 8.0, 3),
]


@pytest.mark.parametrize(("conv", "kernel", "rate", "dim"), EXACT)
@pytest.mark.parametrize("transposed", [False, True])
def test_exact_factors_hold_any_kernel(conv: str, kernel: int, rate: float, dim: int, transposed: bool) -> None:
    for before, after, groups in CHANNELS.values():
        kinds = TRANSPOSED if transposed else CONV
        plain = kinds[dim](before, after, kernel, groups=groups, dtype=torch.float64)
        layer = ExpandedConv(plain, Expansion(conv, rate=rate))
        make_exact(layer, plain)
        found = layer.contracted()
        assert torch.allclose(found.weight, plain.weight, rtol=0, atol=1e-13)
        assert torch.equal(found.bias, plain.bias)
        contracted_weight(layer).square().sum().backward()
        assert all(factor.weight.grad.ne(0).all() for factor in layer.factors)


def test_exact_factors_of_kernels_that_differ_along_the_axes_and_of_linear_layers() -> None:
    plain = nn.Conv2d(2, 3, (7, 3), dtype=torch.float64)
    layer = ExpandedConv(plain, Expansion("ck", rate=6))
    make_exact(layer, plain)
    assert torch.allclose(layer.contracted().weight, plain.weight, rtol=0, atol=1e-13)
    linear = nn.Linear(5, 3, dtype=torch.float64)
    wide = ExpandedLinear(linear, Expansion(linear=True, rate=2))
    make_exact(wide, linear)
    assert torch.allclose(wide.contracted().weight, linear.weight, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("conv", "kernel", "rate"), [("cl", 3, 0.5), ("ck", 5, 3), ("ck", 7, 3.5)])
def test_layers_too_narrow_to_be_exact_are_refused(conv: str, kernel: int, rate: float) -> None:
    plain = nn.Conv2d(4, 4, kernel)
    with pytest.raises(PocketError, match="exact needs"):
        make_exact(ExpandedConv(plain, Expansion(conv, rate=rate)), plain)


def test_autocast_contracts_in_float32() -> None:
    """The kernel has the precision of float32, though the convolution is computed in bfloat16."""
    for conv, kernel in (("cl", 3), ("ck", 5)):
        layer = ExpandedConv(nn.Conv2d(8, 8, kernel), Expansion(conv))
        exact = copy.deepcopy(layer).double().plain_weights()[0]
        with torch.autocast("cpu", torch.bfloat16):
            weight, _ = layer.plain_weights()
            result = layer(torch.randn(1, 8, 9, 9))
        assert weight.dtype == torch.float32
        assert result.dtype == torch.bfloat16
        assert difference(weight.double(), exact) < 1e-6  # bfloat16 has an error of some 4e-3
        half = copy.deepcopy(layer).bfloat16()
        reference = copy.deepcopy(half).double().plain_weights()[0]
        assert half.plain_weights()[0].dtype == torch.bfloat16
        assert difference(half.plain_weights()[0].double(), reference) < 2**-8  # one rounding


def test_a_gpu_does_not_round_kernels_to_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch is off while kernels are multiplied, and as it was before and after."""
    seen = []
    real = contraction._CONV_TRANSPOSE[2]

    def watched(*arguments: Any, **options: Any) -> Tensor:
        seen.append(torch.backends.cudnn.allow_tf32)
        return real(*arguments, **options)

    monkeypatch.setitem(contraction._CONV_TRANSPOSE, 2, watched)
    layer = ExpandedConv(nn.Conv2d(2, 2, 5), Expansion("ck", rate=1))
    layer.plain_weights()
    context = contraction._float32_products
    monkeypatch.setattr(contraction, "_float32_products", lambda _: context(SimpleNamespace(is_cuda=True)))
    layer.plain_weights()
    assert (seen, torch.backends.cudnn.allow_tf32) == ([True, False], True)


def energies(make: Callable[[], nn.Module], expansion: Expansion, draws: int) -> Tensor:
    """Return the mean square of each tap of contracted kernels, relative to the plain variance: ``(draws, *K)``."""
    kernels, plain = [], make().weight
    for _ in range(draws):
        kernels.append(ExpandedConv(make(), expansion).contracted().weight.detach().square().mean((0, 1)))
    fan_in = plain[0].numel()
    return torch.stack(kernels) * 3 * fan_in  # torch draws weights from +-1 / sqrt(fan_in)


def near(draws: Tensor, expected: Tensor | float, spread: float) -> bool:
    """Whether the mean of independent draws is within five standard errors of what theory expects."""
    error = draws.std(0) / math.sqrt(len(draws))
    assert bool((error < spread * draws.mean(0)).all())  # otherwise anything would be near
    return bool(((draws.mean(0) - expected).abs() < 5 * error).all())


@pytest.mark.parametrize("rate", [1, 4])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_contracted_cl_begins_with_a_ninth_of_the_plain_variance(rate: float, kind: type[nn.Module]) -> None:
    """Three uniform factors have variances 1 / (3 fan_in); the fans cancel, and 1 / 27 is left of 1 / 3."""
    found = energies(lambda: kind(16, 16, 3), Expansion("cl", rate=rate), draws=60)
    assert near(found.mean((1, 2)), 1 / 9, spread=0.03)
    assert near(found, 1 / 9, spread=0.05)


def test_contracted_ck_begins_centred() -> None:
    """Three flat kernels of 3 make the profile [1, 3, 6, 7, 6, 3, 1] along each axis, with a ninth of the energy."""
    found = energies(lambda: nn.Conv2d(12, 12, 7), Expansion("ck", rate=2), draws=60)
    profile = torch.tensor([1.0, 3, 6, 7, 6, 3, 1])
    expected = torch.outer(profile, profile) / profile.sum() ** 2
    assert near(found.mean((1, 2)), 1 / 9, spread=0.03)
    assert near(found / 49, expected / 9, spread=0.05)


def test_what_regularizers_act_on() -> None:
    layer = ExpandedConv(nn.Conv2d(3, 4, 3), Expansion("cl"))
    contracted_weight(layer)[2].sum().backward()
    assert all(factor.weight.grad.any() for factor in layer.factors)
    assert contracted_weight(layer.factors[0]) is layer.factors[0].weight
    with torch.no_grad():
        last_factor(layer).weight[1] = 0
    assert not contracted_weight(layer)[1].any()
    assert contracted_weight(layer)[0].any()
    plain = nn.Linear(2, 2)
    assert last_factor(plain) is plain


def test_nonlinear_layers_have_no_kernel() -> None:
    layer = ExpandedConv(nn.Conv2d(2, 3, 3, padding=1), Expansion("cl", mode="nonlinear"))
    first, middle, last = layer.factors
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(layer(x), last(F.relu(middle(F.relu(first(x))))))
    with pytest.raises(PocketError, match="cannot be contracted"):
        layer.contracted()


def test_gradients_of_second_order() -> None:
    layer = ExpandedConv(nn.Conv1d(2, 2, 5, dtype=torch.float64), Expansion("ck", rate=1))
    weights = [factor.weight.detach().requires_grad_() for factor in layer.factors]
    assert torch.autograd.gradgradcheck(lambda *w: contract_kernels(w), weights)
