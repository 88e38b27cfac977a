"""A reduced network computes what the network computed: at borders, for images of any size, whatever the wiring."""

from __future__ import annotations

import inspect
import itertools
import json
from typing import Any

import pytest
import torch
from compact_families import FAMILIES, IN, draw_statistics, kill, residual, sequence, unit
from torch import Tensor, nn

from lightning_pocket import networks
from lightning_pocket.compact.architecture import Architecture
from lightning_pocket.compact.identity import identity_layers
from lightning_pocket.compact.latency import fewest_parts
from lightning_pocket.compact.network import make_network
from lightning_pocket.compact.rebuild import size_rule
from lightning_pocket.compact.reduce import keep_sizes, reduce_network
from lightning_pocket.compact.trace import trace
from lightning_pocket.compact.verify import sizes_to_compare
from lightning_pocket.compact.wiring import size_after
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    DenseBlock,
    GroupedConv,
    InstanceNorm,
    LayerFactory,
    PReLU,
    ResidualBlock,
    SeparableConv,
    WidthSchedule,
)
from lightning_pocket.profiling.macs import count_macs, count_macs_by_torch

EXACT = 1e-12
SIZES = {2: ((12, 16), (20, 12)), 3: ((8, 8, 12), (12, 8, 8))}
NETWORKS = [cls for cls in map(networks.__dict__.get, networks.__all__) if cls and not inspect.isabstract(cls)]


def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = network.outputs(x) if hasattr(network, "outputs") else network(x)
    return [found] if isinstance(found, Tensor) else list(found.values() if isinstance(found, dict) else found)


def difference(before: nn.Module, after: nn.Module, size: tuple[int, ...], channels: int = IN) -> float:
    """Return the largest difference relative to the largest output."""
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    worst = 0.0
    for one, other in zip(outputs(before, x), outputs(after, x), strict=True):
        assert one.shape == other.shape
        worst = max(worst, float((one - other).abs().max() / one.abs().max().clamp_min(1e-300)))
    return worst


def made(family: str, dims: int, seed: int = 0, share: float = 0.45) -> nn.Module:
    torch.manual_seed(seed)
    network = FAMILIES[family](dims).double().eval()
    draw_statistics(network)
    kill(network, share / 2 if "depthwise" in family else share)
    return network


def rebuilt(network: Any) -> nn.Module:
    """Return the same network from its JSON."""
    content = json.loads(json.dumps(network.architecture.to_dict()))
    copied = make_network(Architecture.from_dict(content)).double().eval()
    copied.load_state_dict(network.state_dict())
    return copied


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, dims: int) -> None:
    for seed, choose in enumerate([keep_sizes, fewest_parts]):
        network = made(family, dims, seed)
        reduction = reduce_network(network, (IN, *SIZES[dims][0]), choose)
        copied = rebuilt(reduction.network)
        for size in SIZES[dims]:
            assert difference(network, reduction.network, size) < EXACT
            assert difference(network, copied, size) < EXACT
        assert parameters(reduction.network) < parameters(network)


SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"widths": WidthSchedule(base=4)},
    "pocket": {"widths": WidthSchedule(base=6, doublings=0), "block": ResidualBlock(), "deep_supervision": 1},
    "lighter": {
        "layers": LayerFactory(conv=GroupedConv(2), norm=InstanceNorm(eps=0.1), activation=PReLU(), dropout=0.1),
        "binary_head": True,
        "backbone": "mobilenet_v2",
        "downsample": "strided_conv",
        "pool": "mean",
        "widths": WidthSchedule(base=4),
    },
    "separable": {
        "widths": WidthSchedule(base=4),
        "layers": LayerFactory(conv=SeparableConv()),
        "block": DenseBlock(),
        "checkpoint_levels": 2,
        "backbone": "xception",
        "stride": 16,
    },
}


def arguments(cls: Any, setting: str) -> dict[str, Any]:
    """Return those of the settings that a network has."""
    given = {"in_channels": 2, "out_channels": 2, "depth": 2, "width": 0.05, "hidden": 16} | SETTINGS[setting]
    if cls.__name__ == "FCN":
        given["widths"] = WidthSchedule(base=3, doublings=1 if setting == "full" else 0)
    if cls.__name__ == "BasicResNet":  # whose shortcuts skip voxels and add channels of zeros, or project
        given |= {"stride": 2, "shortcut": "project" if setting == "lighter" else "pad"}
    return {key: value for key, value in given.items() if key in inspect.signature(cls).parameters}


#: Settings of which a network has nothing would make the network of the settings before.
CASES = [
    pytest.param(cls, setting, dims, id=f"{cls.__name__}-{setting}-{dims}")
    for cls in NETWORKS
    for dims in (2, 3)
    for position, setting in enumerate(SETTINGS)
    if all(arguments(cls, setting) != arguments(cls, before) for before in list(SETTINGS)[:position])
]


@pytest.mark.parametrize(("cls", "setting", "dims"), CASES)
def test_networks_of_the_package(cls: Any, setting: str, dims: int) -> None:
    if cls.__name__ == "DeepLabV3Plus" and dims == 3 and setting != "lighter":
        pytest.skip("the same code at twice the time")
    torch.manual_seed(1)
    network = cls(spatial_dims=dims, **arguments(cls, setting)).double().eval()
    draw_statistics(network)
    kill(network, 0.3)
    times = 1 if max(network.divisor) > 8 and cls is not networks.AlexNet else 2
    sizes = [[(times + (axis == longer)) * step for axis, step in enumerate(network.divisor)] for longer in (0, 1)]
    reduction = reduce_network(network, (2, *sizes[0]))
    for size in sizes:
        assert difference(network, reduction.network, tuple(size), 2) < EXACT
    assert reduction.network.divisor == network.divisor
    assert isinstance(reduction.network, networks.Classifier) == isinstance(network, networks.Classifier)
    assert parameters(reduction.network) < parameters(network)


def test_everything_alive_changes_nothing() -> None:
    network = made("unet_concat", 2, share=0).float()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight)
    reduction = reduce_network(network, (IN, 12, 16))
    assert parameters(reduction.network) == parameters(network)
    assert count_macs(reduction.network, (1, IN, 12, 16)) == count_macs(network, (1, IN, 12, 16))
    names = {name.removeprefix("body.") for name in reduction.network.state_dict()}
    assert names == set(network.state_dict())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("family", ["plain", "unet_concat", "residual", "grouped", "depthwise", "unet_overlapping"])
def test_parameters_and_macs_by_formula_are_those_that_are_counted(family: str, dims: int) -> None:
    """With constants of zero no border maps are left: eq. (10) with the size of each kernel is all there is."""
    network = made(family, dims).float()
    for module in network.modules():
        if hasattr(module, "running_mean"):
            module.running_mean.zero_()
            nn.init.zeros_(module.bias)
        elif getattr(module, "bias", None) is not None and module.out_channels > 3:
            nn.init.zeros_(module.bias)
    reduction = reduce_network(network, (IN, *SIZES[dims][0]))
    shape = (1, IN, *SIZES[dims][0])
    formula = sum(layer.taps[1] * layer.voxels for layer in reduction.layers)
    assert count_macs(reduction.network, shape) == count_macs_by_torch(reduction.network, shape) == formula
    kept = {layer.name: layer.kernels[1] for layer in reduction.layers}
    norms = sum(
        2 * module.num_features if hasattr(module, "num_features") else module.weight.numel()
        for module in reduction.network.modules()
        if hasattr(module, "num_features") or isinstance(module, nn.PReLU)
    )
    biases = sum(kept[name] for name, module in network.named_modules() if getattr(module, "bias", None) is not None
                 and name in kept)  # fmt: skip
    assert parameters(reduction.network) == sum(layer.taps[1] for layer in reduction.layers) + biases + norms
    assert sum(layer.parameters[1] for layer in reduction.layers) == parameters(reduction.network) - norms


def test_macs_before_are_those_of_the_network() -> None:
    network = made("unet_overlapping", 3).float()
    reduction = reduce_network(network, (IN, 8, 8, 12))
    before = sum(layer.taps[0] * layer.voxels for layer in reduction.layers)
    assert before == count_macs(network, (1, IN, 8, 8, 12))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_dead_residual_layer_disappears(dims: int) -> None:
    torch.manual_seed(0)
    network = residual(dims, blocks=4).double().eval()
    draw_statistics(network)
    dead = [f"second.{index}.0" for index in (0, 2)]
    for name in dead:
        network.get_submodule(name).weight.data.zero_()
    reduction = reduce_network(network, (IN, *SIZES[dims][0]))
    assert difference(network, reduction.network, SIZES[dims][1]) < EXACT
    # With the second convolution of a pair nobody reads the first: both are gone, and only a vector is left.
    assert reduction.removed == ["first.0.0", "second.0.0", "first.2.0", "second.2.0"]
    assert not [name for name in reduction.network.state_dict() if name.startswith("body.first.0.")]
    steps = {step.name: step.op for step in reduction.network.architecture.steps}
    assert [op for name, op in steps.items() if name.startswith("add")] == ["shift", "add", "shift", "add"]
    for name in dead:  # with norms that leave 0 as it is there is not even a vector
        norm = network.get_submodule(name[:-1] + "1")
        norm.running_mean.zero_()
        nn.init.zeros_(norm.bias)
    steps = {step.name: step.op for step in reduce_network(network, (IN, *SIZES[dims][0])).network.architecture.steps}
    assert [op for name, op in steps.items() if name.startswith("add")] == ["add", "add"]


def test_channels_that_are_added_are_not_coupled() -> None:
    network = made("residual", 2, share=0)
    network.second[0][0].weight.data[[0, 2, 5]] = 0
    reduction = reduce_network(network, (IN, 12, 16))
    kernels = {layer.name: layer.kernels for layer in reduction.layers}
    assert kernels["second.0.0"] == (6, 3)
    assert kernels["stem.0"] == (6, 6)


@pytest.mark.parametrize("family", ["plain", "unet_concat", "branches", "residual_projected", "average_pool_padded"])
def test_only_constants_in_a_branch(family: str) -> None:
    """Layers of which nothing but a constant is left, read by kernels that see the border."""
    network = made(family, 2)
    layers = {"unet_concat": "coarse.0", "branches": "low.0", "residual_projected": "body.0.0"}
    if family in layers:
        network.get_submodule(layers[family]).weight.data.zero_()
        reduction = reduce_network(network, (IN, 12, 16))
        assert layers[family] in reduction.removed
        for size in SIZES[2]:
            assert difference(network, reduction.network, size) < EXACT
        return
    network[0][0].weight.data.zero_()
    with pytest.raises(PocketError, match=r"^0\.0: has no kernel left, so that \d no longer depends on the image"):
        reduce_network(network, (IN, 12, 16))


def test_a_size_that_nobody_computes_any_more() -> None:
    """Everything on the way down is a constant; the way up still has to know how large it is."""
    for family in ("unet_add", "unet_concat", "unet_overlapping", "unet_linear", "pyramid"):
        network = made(family, 2, share=0)
        name = "mean.0" if family == "pyramid" else "coarse.0"
        network.get_submodule(name).weight.data.zero_()
        reduction = reduce_network(network, (IN, 12, 16))
        for size in SIZES[2]:
            assert difference(network, reduction.network, size) < EXACT, family


WINDOWS: list[nn.Module] = [
    nn.Conv2d(1, 1, (3, 2), (2, 3), (1, 0), (1, 2)),
    nn.Conv2d(1, 1, 5, 2, 2, padding_mode="reflect"),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    nn.MaxPool2d(2, 2, ceil_mode=True),
    nn.MaxPool2d(2, 3, 1, ceil_mode=True),
    nn.MaxPool2d(2, 2, 0, 2),
    nn.AvgPool2d((2, 3), 2, 1, ceil_mode=True),
    nn.ConvTranspose2d(1, 1, 3, 2, 1, output_padding=(1, 0)),
    nn.ConvTranspose2d(1, 1, 2, 2),
    nn.ConvTranspose2d(1, 1, (3, 4), 3, 2, dilation=2),
    nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=(1.5, 2.7), mode="bilinear"),
    nn.AdaptiveAvgPool2d((None, 3)),
    nn.AdaptiveMaxPool2d(2),
    nn.Flatten(2),
    nn.Flatten(1),
]


@pytest.mark.parametrize("layer", WINDOWS, ids=str)
def test_sizes_are_known_without_computing(layer: nn.Module) -> None:
    node = trace(nn.Sequential(layer), (1, 12, 13)).nodes[-1]
    rule, numbers = size_rule(node)
    for height, width in itertools.product(range(9, 16), range(9, 16)):
        expected = layer(torch.zeros(1, 1, height, width)).shape[2:]
        assert tuple(size_after(rule, (height, width), **numbers)) == tuple(expected)


def test_identity_layers_are_reported() -> None:
    network = sequence(unit(IN, 4, 2, "none", nn.ReLU()), unit(4, 4, 2, "none", nn.ReLU()), nn.Conv2d(4, 3, 1))
    assert identity_layers(trace(network, (IN, 8, 8))) == []
    nn.init.dirac_(network[1][0].weight)
    nn.init.zeros_(network[1][0].bias)
    assert identity_layers(trace(network, (IN, 8, 8))) == ["1.0"]
    network[0][2] = nn.LeakyReLU()  # its negative values would not pass
    assert identity_layers(trace(network, (IN, 8, 8))) == []


class Odd(nn.Module):
    """Does something that cannot be reduced."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.conv = nn.Conv2d(IN, 4, 3)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Any:
        h = self.conv(x)
        return {
            "softmax": lambda: h.softmax(1),
            "weights": lambda: h * self.scale,
            "product": lambda: h * h.sigmoid(),
            "slice": lambda: h[:, :2],
            "decides": lambda: h if h.mean() > 0 else -h,
            "fixed": lambda: torch.nn.functional.interpolate(h, (7, 7)),
            "over its size": lambda: h / h.shape[3],
            "pool of its size": lambda: torch.nn.functional.avg_pool2d(h, h.shape[2:]),
            "parts of its size": lambda: torch.nn.functional.adaptive_avg_pool2d(h, h.shape[2:]),
            "axis": lambda: torch.cat([h, h], dim=2),
            "number": lambda: h + 1,
            "no tensor": lambda: 3,
        }[self.what]()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("softmax", r"^inner: the operation softmax \(it mixes channels, or is not known\) cannot be reduced exactly"),
        ("weights", "^inner: a product of two results"),
        ("product", "^inner: a product of two results"),
        ("slice", "^inner: an index other than every n-th voxel of all channels"),
        ("decides", "^inner: "),
        ("fixed", "^inner: interpolate to a fixed size"),
        ("over its size", "^inner: the operation truediv with the size of an image as a number"),
        ("pool of its size", "^inner: the operation avg_pool2d with the size of an image as a number"),
        ("parts of its size", "^inner: the operation adaptive_avg_pool2d with the size of an image as a number"),
        ("axis", "^inner: a concatenation along axis 2"),
        ("number", "^inner: an addition of a number"),
        ("no tensor", "returns something other than tensors"),
    ],
)
def test_what_cannot_be_reduced_is_named_with_its_place(what: str, said: str) -> None:
    network = nn.Sequential()
    network.add_module("inner", Odd(what))
    with pytest.raises(PocketError, match=said) as caught:
        reduce_network(network, (IN, 8, 8))
    assert "\n" not in str(caught.value)
    assert network.training


@pytest.mark.parametrize("layer", [nn.GroupNorm(2, 4), nn.LayerNorm([4, 6, 6]), nn.LocalResponseNorm(2), nn.Softmax(1)])
def test_layers_that_mix_channels_are_refused_by_name(layer: nn.Module) -> None:
    network = nn.Sequential(nn.Conv2d(IN, 4, 3), nn.Sequential(layer), nn.Conv2d(4, 3, 1))
    with pytest.raises(PocketError, match=rf"^1\.0: {type(layer).__name__} \(it mixes channels"):
        reduce_network(network, (IN, 8, 8))


def test_a_reduced_network_is_not_reduced_again() -> None:
    first = reduce_network(made("plain", 2), (IN, 12, 16)).network
    with pytest.raises(PocketError, match="the CompactNetwork is already reduced"):
        reduce_network(first, (IN, 12, 16))


def test_gradients_reach_every_weight() -> None:
    network = made("unet_concat", 2)
    reduced = reduce_network(network, (IN, 12, 16)).network.train()
    sum(output.square().mean() for output in reduced.outputs(torch.randn(2, IN, 12, 16).double())).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in reduced.parameters())
    assert sum(bool(p.grad.any()) for p in reduced.parameters()) >= len(list(reduced.parameters())) - 6


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_networks_are_compared_on_images_that_they_take() -> None:
    def valid(last: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Conv2d(IN, 4, 7), nn.ReLU(), nn.Conv2d(4, 3, 7), last)

    assert sizes_to_compare(nn.Conv2d(IN, 3, 3), IN, (4, 4), 32) == [(8, 12), (12, 8)]
    assert sizes_to_compare(valid(nn.ReLU()), IN, (4, 4), 32) == [(32, 36), (36, 32)]
    fixed = nn.Sequential(valid(nn.Flatten()), nn.Linear(3 * 20 * 20, 2))
    with pytest.raises(PocketError, match=r"^Sequential: does not compute images of 32x36 or 36x32\. What is reduced"):
        sizes_to_compare(fixed, IN, (4, 4), 32)


def test_modules_may_have_any_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = {"3x3-conv": nn.Conv2d(IN, 4, 3), "größe": nn.ReLU(), "append": nn.Conv2d(4, 3, 3)}
            self.layers = nn.ModuleDict(layers)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers.values():
                x = layer(x)
            return x

    network = Named().double().eval()
    reduction = reduce_network(network, (IN, 9, 9))
    assert difference(network, rebuilt(reduction.network), (9, 11)) <= EXACT
    assert [layer.name for layer in reduction.layers] == ["layers.3x3_conv", "layers.append_"]
