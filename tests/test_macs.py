"""Multiply-accumulate operations against published counts, torch's own counter, and counting on fingers."""

import json
from itertools import pairwise, product
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    DenseBlock,
    GroupedConv,
    LayerFactory,
    PReLU,
    ResidualBlock,
    SeparableConv,
    StandardConv,
    WidthSchedule,
)
from lightning_pocket.networks import EncoderClassifier, HRNet, UNet
from lightning_pocket.profiling.macs import count_layers, count_macs, count_macs_by_torch, count_macs_ptflops

GOLDEN = json.loads((Path(__file__).parent / "golden" / "macs.json").read_text(encoding="utf-8"))
PUBLISHED = {"full": "all", "pocket": 0}


@pytest.mark.parametrize("variant", PUBLISHED)
def test_unet_of_pocketnet(variant):
    network = UNet(1, 2, depth=5, widths=WidthSchedule(base=32, doublings=PUBLISHED[variant]))
    assert count_macs(network, (1, 1, 128, 128, 128)) == GOLDEN["pocketnet_unet_128"][variant]


@pytest.mark.parametrize(
    "conv", [StandardConv(), GroupedConv(4), SeparableConv()], ids=lambda conv: type(conv).__name__
)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["unet", "resnet", "densenet", "hrnet", "classifier"])
def test_agrees_with_the_counter_of_torch(name, dims, conv):
    layers = LayerFactory(conv=conv, activation=PReLU())
    common = {"spatial_dims": dims, "depth": 2, "widths": WidthSchedule(base=8), "layers": layers}
    channels = 1 if name != "densenet" else 8  # a dense block passes the image on, and 4 must divide it
    network = {
        "unet": lambda: UNet(channels, 3, **common, deep_supervision=1),
        "resnet": lambda: UNet(channels, 3, **common, block=ResidualBlock()),
        "densenet": lambda: UNet(channels, 3, **common, block=DenseBlock(), downsample="strided_conv"),
        "hrnet": lambda: HRNet(channels, 3, **common),
        "classifier": lambda: EncoderClassifier(channels, 3, **common),
    }[name]()
    shape = (2, channels, *(16,) * dims)
    counted = count_macs(network, shape)
    assert counted == count_macs_by_torch(network, shape) > 0
    assert count_macs(network, (4, *shape[1:])) == 2 * counted


def test_layers_are_named_by_their_path_and_add_up():
    network = UNet(1, 2, depth=2, widths=WidthSchedule(base=4)).eval()
    shape = (2, 1, 16, 8, 8)
    layers = count_layers(network, shape)
    modules = dict(network.named_modules())
    assert all(type(modules[layer.name]).__name__ == layer.kind for layer in layers)
    assert sum(layer.parameters for layer in layers) == sum(p.numel() for p in network.parameters())
    assert sum(layer.macs for layer in layers) == count_macs(network, shape)
    first = layers[0]
    assert (first.name, first.kind, first.parameters) == ("encoder.0.0.0", "Conv3d", 4 * 27 + 4)
    assert first.nesting == 3
    assert first.macs == 2 * 16 * 8 * 8 * 4 * 27
    assert first.output_shape == (2, 4, 16, 8, 8)
    assert first.activation_mib == pytest.approx(4 * 2 * 4 * 16 * 8 * 8 / 2**20)
    seen = {}

    def note(name):
        def hook(_, __, output):
            seen.setdefault(name, tuple(output.shape))

        return hook

    for layer in layers:
        modules[layer.name].register_forward_hook(note(layer.name))
    network(torch.rand(shape))
    assert all(seen[layer.name] == layer.output_shape for layer in layers)


def test_a_layer_that_runs_twice_costs_twice_and_has_its_parameters_once():
    layer = nn.Linear(5, 5)
    network = nn.Sequential(layer, nn.ReLU(), layer)
    assert [cost.parameters for cost in count_layers(network, (3, 5)) if cost.kind == "Linear"] == [30, 0]
    assert count_macs(network, (3, 5)) == 2 * 3 * 25 == count_macs_by_torch(network, (3, 5))


def test_transposed_and_grouped_convolutions_by_hand():
    assert count_macs(nn.ConvTranspose3d(6, 4, 2, 2), (1, 6, 3, 3, 3)) == 27 * 8 * 6 * 4
    assert count_macs(nn.Conv2d(8, 12, (3, 5), groups=4), (1, 8, 7, 9)) == 5 * 5 * 12 * 15 * 2


def test_the_network_is_left_alone_and_nothing_is_computed():
    network = nn.Sequential(nn.Conv3d(1, 8, 3), nn.BatchNorm3d(8)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert count_layers(network, (64, 1, 512, 512, 512))[0].activation_mib > 2**17  # few machines have that much
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(PocketError, match="multiples"):
        count_macs(UNet(1, 2, depth=3), (1, 1, 20, 20, 20))


# --- ExpandNets, Table 6: four convolutions of 7 x 7, each with norm, ReLU and pooling, then two linear layers.


def conv_units(kind, rate):
    """Return the convolutions of each unit, ``[(in, out, kernel, padding), ...]``, expanded as ``kind`` says."""
    units = []
    for before, after in pairwise([3, 8, 16, 32, 64]):
        wide_before, wide_after = rate * before, rate * after
        if kind == "CL":
            units.append([(before, wide_before, 1, 3), (wide_before, wide_after, 7, 0), (wide_after, after, 1, 0)])
        elif kind == "CK":
            units.append([(before, wide_before, 3, 3), (wide_before, wide_after, 3, 0), (wide_after, after, 3, 0)])
        else:
            units.append([(before, after, 7, 3)])
    return units


def small_net(kind, rate):
    layers = []
    for unit in conv_units(kind, rate):
        layers += [nn.Conv2d(before, after, kernel, padding=padding) for before, after, kernel, padding in unit]
        layers += [nn.BatchNorm2d(unit[-1][1]), nn.ReLU(), nn.MaxPool2d(2)]
    widths = [256, 256 * rate, 64 * rate, 64] if kind == "FC(Arora18)" else [256, 64]
    linear = [nn.Linear(before, after) for before, after in pairwise(widths)]
    return nn.Sequential(*layers, nn.Flatten(), *linear, nn.ReLU(), nn.Linear(64, 10))


@pytest.mark.parametrize("row", GOLDEN["expandnets_table_6"], ids=lambda row: f"{row['model']} {row['variant']}")
def test_table_6_of_expandnets(row):
    kind = row["model"].removeprefix("ExpandNet-")
    rate = 1 if kind == "SmallNet" else int(row["variant"].removeprefix("r="))
    network = small_net(kind, rate)
    assert sum(p.numel() for p in network.parameters()) == row["params"]
    assert count_macs(network, (1, 3, 32, 32)) == row["macs"]
    assert count_macs_ptflops(network, (1, 3, 32, 32)) == row["macs_ptflops"]


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(2, 3, 3, bias=False), (1, 2, 4, 4), 4 * 3 * 18),
        (nn.ConvTranspose2d(2, 3, 2, 2), (1, 2, 4, 4), 16 * 2 * 3 * 4 + 64 * 3),
        (nn.InstanceNorm3d(2), (1, 2, 4, 4, 4), 128),
        (nn.BatchNorm3d(2), (1, 2, 4, 4, 4), 256),
        (nn.AvgPool2d(2), (1, 2, 4, 4), 32),
        (nn.Upsample(scale_factor=2), (1, 2, 4, 4), 128),
        (nn.PReLU(2), (1, 2, 4, 4), 32),
        (nn.Linear(8, 3), (1, 8), 24),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_old_counting_of_single_layers(layer, shape, expected):
    assert count_macs_ptflops(layer, shape) == expected


# --- Lighter U-Net, Table 2: a 2D U-Net whose pairs of convolutions are plain, or grouped and pointwise.


def conv_set(before, after, group_size):
    if group_size is None:
        return [nn.Conv2d(before, after, 3, padding=1)]
    size = (3 if group_size > 1 else 1) if before == 3 else min(group_size, before)
    return [nn.Conv2d(before, before, 3, padding=1, groups=before // size), nn.Conv2d(before, after, 1)]


def double_conv(before, after, sizes, between=None):
    between = between or after
    first, second = conv_set(before, between, sizes[0]), conv_set(between, after, sizes[1])
    return nn.Sequential(*first, nn.BatchNorm2d(between), nn.ReLU(), *second, nn.BatchNorm2d(after), nn.ReLU())


class LighterUNet(nn.Module):
    def __init__(self, sizes):
        super().__init__()
        self.down = nn.ModuleList(double_conv(a, b, sizes) for a, b in pairwise([3, 64, 128, 256, 512, 512]))
        up = [(1024, 256), (512, 128), (256, 64), (128, 64)]
        self.up = nn.ModuleList(double_conv(before, after, sizes, before // 2) for before, after in up)
        self.head = nn.Conv2d(64, 1, 1)

    def forward(self, x):
        skips = []
        for index, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            x = block(torch.cat([skips.pop(), x], 1))
        return self.head(x)


@pytest.mark.parametrize("row", GOLDEN["lighter_unet_256"], ids=lambda row: f"{row['model']} {row['variant']}")
def test_table_2_of_lighter_unet(row):
    named = {"U-Net": (None, None), "Light U-Net": (None, 1)}
    sizes = named.get(row["model"]) or (int(row["variant"].removeprefix("@")),) * 2
    network = LighterUNet(sizes)
    assert sum(p.numel() for p in network.parameters()) == row["params"]
    assert count_macs(network, (1, 3, 256, 256)) == row["macs"]


def test_the_published_networks_differ():  # or the counts above would agree for the wrong reason
    macs = [row["macs"] for table in ("expandnets_table_6", "lighter_unet_256") for row in GOLDEN[table]]
    assert all(a != b for (i, a), (j, b) in product(enumerate(macs), repeat=2) if i != j)
