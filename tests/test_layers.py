"""Layers against counts of papers, closed forms and explicit torch functions."""

import doctest
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    BatchNorm,
    ConvKind,
    DenseBlock,
    GroupedConv,
    InstanceNorm,
    LayerFactory,
    LeakyReLU,
    NoNorm,
    PlainBlock,
    PReLU,
    ReLU,
    ResidualBlock,
    SeparableConv,
    StandardConv,
    WidthSchedule,
    widths,
)
from lightning_pocket.layers.group_sizes import smaller_groups

GOLDEN = json.loads((Path(__file__).parent / "golden" / "networks.json").read_text(encoding="utf-8"))
CONV = {2: F.conv2d, 3: F.conv3d}


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def image(channels: int, spatial_dims: int, size: int = 6, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *(size,) * spatial_dims, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_width_schedule() -> None:
    result = doctest.testmod(widths)
    assert (result.failed, result.attempted) == (0, 2)
    assert [WidthSchedule()(depth) for depth in range(6)] == [32, 64, 128, 256, 512, 1024]
    assert [WidthSchedule(base=5, doublings=0)(depth) for depth in range(3)] == [5, 5, 5]
    assert [WidthSchedule(base=8, doublings=3, ceiling=20)(depth) for depth in range(5)] == [8, 16, 20, 20, 20]


@pytest.mark.parametrize(
    ("settings", "key"),
    [({"base": 0}, "widths.base"), ({"doublings": -1}, "widths.doublings"), ({"ceiling": 31}, "widths.ceiling")],
)
def test_bad_width_schedule(settings: dict[str, int], key: str) -> None:
    with pytest.raises(PocketError, match=key):
        WidthSchedule(**settings)


@pytest.mark.parametrize(("row", "expected"), GOLDEN["lighter_unet_table_2"].items())
def test_lighter_unet_table_2(row: str, expected: int) -> None:
    """Ten published integers pin down the conv sets, the rule for RGB images included."""
    kinds: dict[str, tuple[ConvKind, ConvKind]] = {
        "unet": (StandardConv(), StandardConv()),
        "light": (StandardConv(), GroupedConv(1)),
    }
    first, second = kinds[row] if row in kinds else (GroupedConv(int(row)),) * 2
    encoder = [(3, 64, 64), (64, 128, 128), (128, 256, 256), (256, 512, 512), (512, 512, 512)]
    decoder = [(1024, 512, 256), (512, 256, 128), (256, 128, 64), (128, 64, 64)]
    total = 64 + 1
    with torch.device("meta"):
        for before, middle, after in encoder + decoder:
            total += parameters(first(before, middle, spatial_dims=2)) + 2 * middle
            total += parameters(second(middle, after, spatial_dims=2)) + 2 * after
    assert total == expected


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_grouped_conv_is_one_convolution_per_group(spatial_dims: int, stride: int) -> None:
    conv = GroupedConv(2)(6, 5, spatial_dims=spatial_dims, stride=stride)
    x = image(6, spatial_dims)
    spatial, mix = conv[0], conv[1]
    assert isinstance(spatial, nn.Conv2d | nn.Conv3d)
    parts = zip(x.split(2, dim=1), spatial.weight.split(2), spatial.bias.split(2), strict=True)
    grouped = torch.cat([CONV[spatial_dims](g, w, b, stride=stride, padding=1) for g, w, b in parts], dim=1)
    expected = torch.einsum("oc,bc...->bo...", mix.weight.flatten(1), grouped)
    expected = expected + mix.bias.view(1, -1, *(1,) * spatial_dims)
    torch.testing.assert_close(conv(x), expected)


def test_one_group_is_dense_plus_pointwise() -> None:
    conv = GroupedConv(8)(4, 6, spatial_dims=3)
    assert parameters(conv) == (27 * 4 * 4 + 4) + (4 * 6 + 6)
    x = image(4, 3)
    dense = F.conv3d(x, conv[0].weight, conv[0].bias, padding=1)
    torch.testing.assert_close(conv(x), F.conv3d(dense, conv[1].weight, conv[1].bias))


@pytest.mark.parametrize(("group_size", "groups"), [(1, 3), (2, 1), (3, 1), (64, 1)])
def test_groups_of_an_rgb_image(group_size: int, groups: int) -> None:
    assert GroupedConv(group_size)(3, 8, spatial_dims=2)[0].groups == groups


@pytest.mark.parametrize(
    ("group_size", "channels", "expected"),
    [(8, 33, 3), (8, 35, 7), (3, 4, 2), (4, 6, 3), (8, 37, 1), (64, 96, 48), (2, 9, 1), (5, 5, 5), (16, 5, 5)],
)
def test_the_largest_divisor_where_group_size_does_not_divide(group_size: int, channels: int, expected: int) -> None:
    spatial = GroupedConv(group_size)(channels, 8, spatial_dims=2)[0]
    assert channels // spatial.groups == expected


def test_smaller_groups_than_asked_are_told() -> None:
    def told(group_size: int, *channels: int) -> list[str]:
        return smaller_groups(nn.Sequential(*(GroupedConv(group_size)(c, 8, spatial_dims=2) for c in channels)))

    assert told(8, 3, 5, 8, 64) == []  # an RGB image, fewer channels than a group, and what divides
    assert told(2, 3) == []
    assert told(8, 12, 24, 33) == [
        "group_size 8 does not divide the input channels of 2 layers: groups of 3 in those with 33, of 6 in those with "
        "12 channels."
    ]
    assert told(3, 64, 128, 64) == [
        "group_size 3 does not divide the input channels of 3 layers: groups of 2 in those with 64, 128 channels."
    ]
    assert "10, 14, 16, 20, 22, 26, 28, 32 and 2 more channels" in told(3, *range(10, 40, 2))[0]
    mixed = nn.ModuleList([GroupedConv(5)(8, 8, spatial_dims=3), GroupedConv(7)(8, 8, spatial_dims=3)])
    assert [line.split()[1] for line in smaller_groups(mixed)] == ["5", "7"]
    assert smaller_groups(SeparableConv()(7, 8, spatial_dims=2)) == []


def test_separable_conv_is_grouped_conv_without_the_first_bias() -> None:
    separable, grouped = (kind(4, 6, spatial_dims=3) for kind in (SeparableConv(), GroupedConv(1)))
    assert parameters(separable) == parameters(grouped) - 4 == 27 * 4 + 4 * 6 + 6
    nn.init.zeros_(grouped[0].bias)
    grouped.load_state_dict(separable.state_dict(), strict=False)
    torch.testing.assert_close(separable(image(4, 3)), grouped(image(4, 3)))


@pytest.mark.parametrize(
    "kind", [StandardConv(), GroupedConv(2), SeparableConv()], ids=lambda kind: type(kind).__name__
)
def test_conv_shapes_biases_and_errors(kind: ConvKind) -> None:
    thin = kind(2, 4, spatial_dims=3, kernel_size=[1, 3, 5], stride=[1, 2, 2])
    assert thin(torch.zeros(1, 2, 3, 8, 8)).shape == (1, 4, 3, 4, 4)
    without = type(kind)(**{**vars(kind), "bias": False})
    assert all(name.endswith("weight") for name, _ in without(2, 4, spatial_dims=2).named_parameters())
    first = next(
        module for module in kind(2, 2, spatial_dims=2, dilation=[2, 1]).modules() if hasattr(module, "groups")
    )
    taps = F.conv2d(torch.ones(1, 1, 9, 9), torch.ones(1, 1, 3, 3), padding=(2, 1), dilation=(2, 1))[0, 0]
    nn.init.ones_(first.weight)
    dilated = F.conv2d(
        torch.ones(1, 2, 9, 9), first.weight, None, first.stride, first.padding, first.dilation, first.groups
    )
    torch.testing.assert_close(dilated[0, 0], taps * first.weight.shape[1])
    for settings, key in (
        ({"spatial_dims": 3, "kernel_size": 4}, "kernel_size: found 4, expected odd"),
        ({"spatial_dims": 3, "kernel_size": [3, 3]}, "kernel_size.*expected 3 integers"),
        ({"spatial_dims": 2, "stride": 0}, "stride: found 0"),
        ({"spatial_dims": 2, "dilation": [1]}, "dilation: .*expected 2 integers"),
        ({"spatial_dims": 4}, "spatial_dims: found 4"),
    ):
        with pytest.raises(PocketError, match=key):
            kind(2, 4, **settings)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_norms(spatial_dims: int) -> None:
    x = image(3, spatial_dims) * 2 + 5
    space = tuple(range(2, spatial_dims + 2))
    for kind, axes in ((BatchNorm(eps=0.5, momentum=0.2), (0, *space)), (InstanceNorm(eps=0.5), space)):
        norm = kind(3, spatial_dims=spatial_dims)
        mean, variance = x.mean(axes, keepdim=True), x.var(axes, keepdim=True, unbiased=False)
        torch.testing.assert_close(norm(x), (x - mean) / (variance + 0.5).sqrt())
        assert parameters(norm) == 6
        if isinstance(kind, BatchNorm):
            torch.testing.assert_close(norm.running_mean, 0.2 * mean.flatten())
    assert parameters(InstanceNorm(affine=False)(3, spatial_dims=spatial_dims)) == 0
    assert NoNorm()(3, spatial_dims=spatial_dims)(x) is x


def test_activations() -> None:
    x = torch.tensor([[-2.0, 4.0]])
    assert ReLU()(2)(x).tolist() == [[0, 4]]
    assert LeakyReLU(0.5)(2)(x).tolist() == [[-1, 4]]
    prelu = PReLU(init=0.25)(2)
    assert prelu.weight.tolist() == [0.25, 0.25]
    prelu.weight.data[0] = 0.75
    assert prelu(x).tolist() == [[-1.5, 4]]


def test_unit_order_and_dropout() -> None:
    factory = LayerFactory(norm=BatchNorm(), activation=ReLU(), dropout=0.5)
    unit = factory.unit(2, 64, spatial_dims=2)
    assert [type(layer) for layer in unit] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout2d]
    zeroed = (unit(image(2, 2)) == 0).flatten(2).all(dim=2)
    assert 0.3 < zeroed.float().mean() < 0.7  # whole channels
    assert len(LayerFactory().unit(2, 4, spatial_dims=2)) == 3
    for dropout in (-0.1, 1.0):
        with pytest.raises(PocketError, match=r"layers\.dropout"):
            LayerFactory(dropout=dropout)


@pytest.mark.parametrize(
    ("layer", "fan_sum"),
    [
        (nn.Conv2d(16, 48, 3), 9 * (16 + 48)),
        (nn.Conv3d(16, 16, 3, groups=4), 27 * (4 + 16)),
        (nn.ConvTranspose3d(32, 16, 2), 8 * (32 + 16)),
        (nn.Linear(70, 30), 70 + 30),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_glorot_uniform_as_in_keras(layer: nn.Module, fan_sum: int) -> None:
    LayerFactory(initializer="glorot_uniform").initialize(nn.Sequential(nn.Sequential(layer)))
    limit = math.sqrt(6 / fan_sum)
    assert 0.98 * limit < layer.weight.abs().max() <= limit
    assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert not layer.bias.any()


def test_initializers_leave_the_rest_alone() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.PReLU(2, 0.1), nn.BatchNorm2d(2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    LayerFactory(initializer="torch").initialize(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    LayerFactory(initializer="glorot_uniform").initialize(net)
    assert [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])] == ["0.weight"]


def reference_unit(x: Tensor, state: dict[str, Tensor], prefix: str) -> Tensor:
    """Conv 3x3 - batch norm - PReLU, from a state dict."""
    h = F.conv2d(x, state[f"{prefix}.0.weight"], state[f"{prefix}.0.bias"], padding=1)
    h = F.batch_norm(h, None, None, state[f"{prefix}.1.weight"], state[f"{prefix}.1.bias"], training=True)
    return F.prelu(h, state[f"{prefix}.2.weight"])


@pytest.mark.parametrize("kind", [PlainBlock(), ResidualBlock(), DenseBlock()], ids=lambda kind: type(kind).__name__)
def test_blocks_against_their_formulas(kind: PlainBlock | ResidualBlock | DenseBlock) -> None:
    block = kind(3, 4, LayerFactory(activation=PReLU()), spatial_dims=2)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x, state = image(3, 2), {name: value.detach() for name, value in block.state_dict().items()}
    if isinstance(kind, PlainBlock):
        expected = reference_unit(reference_unit(x, state, "0"), state, "1")
    elif isinstance(kind, ResidualBlock):
        y = reference_unit(reference_unit(x, state, "body.0"), state, "body.1")
        r = F.conv2d(x, state["shortcut.weight"], state["shortcut.bias"])
        expected = F.prelu(y + r, state["activation.weight"])
    else:
        h = torch.cat([x, reference_unit(x, state, "units.0")], dim=1)
        h = torch.cat([h, reference_unit(h, state, "units.1")], dim=1)
        expected = F.prelu(F.conv2d(h, state["end.0.weight"], state["end.0.bias"]), state["end.1.weight"])
    torch.testing.assert_close(block(x), expected)
    with pytest.raises(PocketError, match=r"block\.units"):
        type(kind)(units=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    # One unit n -> m in 2D is 9nm + m, plus batch norm 2m; pointwise nm + m.
    [
        (PlainBlock(units=3), (9 * 2 * 4 + 12) + 2 * (9 * 4 * 4 + 12)),
        (ResidualBlock(units=1), (9 * 2 * 4 + 12) + (2 * 4 + 4)),
        (DenseBlock(units=3), (9 * 2 * 4 + 12) + (9 * 6 * 4 + 12) + (9 * 10 * 4 + 12) + (14 * 4 + 4)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_number_of_units(kind: PlainBlock | ResidualBlock | DenseBlock, expected: int) -> None:
    block = kind(2, 4, LayerFactory(), spatial_dims=2)
    assert parameters(block) == expected
    assert block(image(2, 2)).shape == (2, 4, 6, 6)
