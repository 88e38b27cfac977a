"""Base architectures of the structured sparsity draft: counts, products, shortcuts, tracing."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shipped_networks import ROOT, build, parameters
from torch import fx, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import BatchNorm, LayerFactory, StandardConv, WidthSchedule
from lightning_pocket.networks import BasicResNet
from lightning_pocket.networks.basic_resnet import PadShortcut
from lightning_pocket.profiling.complexity import KernelLayer, complexity
from lightning_pocket.profiling.macs import count_macs, count_macs_by_torch

GOLDEN = json.loads((ROOT / "tests" / "golden" / "sparsity_bases.json").read_text(encoding="utf-8"))
BIASED = {"layers.conv": {"class_path": "lightning_pocket.layers.StandardConv", "init_args": {"bias": True}}}

every_base = pytest.mark.parametrize("row", GOLDEN["bases"], ids=lambda row: row["network"])


def base(row: dict[str, Any], *presets: str, **settings: Any) -> Any:
    return build(row["network"], *presets, in_channels=row["channels"], out_channels=row["classes"], **settings)


@every_base
def test_parameters_of_table_2(row: dict[str, Any]) -> None:
    for shortcut, expected in (("none", row["plain"]), ("pad", row["plain"]), ("project", row["project"])):
        for variant, count in zip(((), {"bias"}, {"norm"}), expected, strict=True):
            presets = ["batch_norm"] if "norm" in variant else []
            network = base(row, *presets, shortcut=shortcut, **(BIASED if "bias" in variant else {}))
            assert parameters(network) == count, (shortcut, variant)


@every_base
def test_kernel_weights_are_all_but_the_linear_layer(row: dict[str, Any]) -> None:
    network = base(row, shortcut="none")
    assert parameters(network) - parameters(network.head) == row["kernel_weights"]
    pairs = sum(len(stage) for stage in network.stages)
    depth = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules())
    assert depth == 2 + 2 * pairs == int(row["network"].rsplit("_", 1)[1])


def layers_by_hand(row: dict[str, Any]) -> list[KernelLayer]:
    """Write the plain twin down from Table 2 alone."""
    name, size = row["network"], row["size"]
    widths, pairs, kernel, stem = {
        "resnet_imagenet_8": ([64, 128, 256], 1, 3, 7),
        "resnet_imagenet_18": ([64, 128, 256, 512], 2, 3, 7),
        "resnet_cifar_20": ([16, 32, 64], 3, 3, 3),
        "square_cifar_20": ([64], 9, 5, 5),
        "square_mnist_8": ([32], 3, 5, 5),
    }[name]
    side = size // 2 if stem == 7 else size
    layers = [KernelLayer(row["channels"], widths[0], (stem, stem), (side, side))]
    side = side // 2 if stem == 7 else side  # the pooling
    before = widths[0]
    for level, width in enumerate(widths):
        side = side // 2 if level else side
        for _ in range(2 * pairs):
            layers.append(KernelLayer(before, width, (kernel, kernel), (side, side)))
            before = width
    return [*layers, KernelLayer(before, row["classes"], (1, 1), (1, 1))]


@every_base
def test_products_by_equation_10_are_those_counted(row: dict[str, Any]) -> None:
    shape = (1, row["channels"], row["size"], row["size"])
    assert complexity(layers_by_hand(row)) == row["macs"]
    for shortcut in ("none", "pad"):
        network = base(row, shortcut=shortcut)
        assert count_macs(network, shape) == count_macs_by_torch(network, shape) == row["macs"]


def test_equation_10_by_hand_in_3d_and_its_refusals() -> None:
    assert KernelLayer(2, 3, (1, 3, 3), (4, 5, 6)).products == 4 * 5 * 6 * 3 * 9 * 2
    assert complexity([]) == 0
    with pytest.raises(PocketError, match=r"kernel_size: found \[3, 3\] for an output of \[4, 4, 4\]"):
        KernelLayer(1, 1, [3, 3], [4, 4, 4])
    with pytest.raises(PocketError, match="kernels: found -1"):
        KernelLayer(1, -1, [3, 3], [4, 4])


@pytest.mark.parametrize("size", [8, 9])
def test_padding_takes_every_second_pixel_and_adds_zeros(size: int) -> None:
    x = torch.randn(2, 3, size, size + 1)
    y = PadShortcut(3, 7, 2, 2)(x)
    pooled = F.avg_pool2d(x, 1, 2)  # a pool of one pixel only skips
    assert torch.equal(y[:, :3], pooled)
    assert not y[:, 3:].any()
    assert y.shape[1] == 7
    volume = torch.randn(1, 2, 4, 5, 6)
    assert torch.equal(PadShortcut(2, 2, 2, 3)(volume), volume[:, :, ::2, ::2, ::2])


def small(**settings: Any) -> BasicResNet:
    torch.manual_seed(0)
    return BasicResNet(3, 4, **{"depth": 1, "pairs": 1, "widths": WidthSchedule(base=4), **settings})


@pytest.mark.parametrize("shortcut", ["pad", "project"])
def test_a_pair_without_kernels_is_its_shortcut(shortcut: Any) -> None:
    network = small(shortcut=shortcut).double()
    for stage in network.stages:
        nn.init.zeros_(stage[0].second[0].weight)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    stem = F.conv2d(x, network.stem[0][0].weight, padding=1).relu()
    if shortcut == "pad":
        last = F.pad(stem[:, :, ::2, ::2], (0, 0, 0, 0, 0, 4))
    else:
        last = F.conv2d(stem, network.stages[1][0].shortcut[0].weight, stride=2).relu()
    torch.testing.assert_close(network(x), network.head(last.mean((2, 3))))


def test_a_plain_network_is_a_chain() -> None:
    network = small(shortcut="none").double()
    h = x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.stride[0] for conv in convolutions] == [1, 1, 1, 2, 1]
    for conv in convolutions:
        h = F.conv2d(h, conv.weight, stride=conv.stride, padding=conv.padding).relu()
    torch.testing.assert_close(network(x), network.head(h.mean((2, 3))))


@pytest.mark.parametrize("shortcut", ["none", "pad", "project"])
@pytest.mark.parametrize("stem", ["plain", "imagenet"])
def test_torch_fx_follows_the_network(shortcut: Any, stem: Any) -> None:
    layers = LayerFactory(conv=StandardConv(bias=False), norm=BatchNorm())
    network = small(shortcut=shortcut, stem=stem, layers=layers).eval()
    traced = fx.symbolic_trace(network)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(traced(x), network(x))
    assert {node.op for node in traced.graph.nodes} <= {
        "placeholder", "call_module", "call_function", "call_method", "output",
    }  # fmt: skip


def test_he_normal_keeps_the_variance_through_many_layers() -> None:
    torch.manual_seed(0)
    network = build("square_mnist_8", device="cpu", shortcut="none", pairs=4, kernel_size=3, **{"widths.base": 64})
    weights = [conv.weight for conv in network.modules() if isinstance(conv, nn.Conv2d)]
    assert len(weights) == 25
    for weight in weights[1:]:
        assert float(weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)
    h = network.stem(torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0)))
    before = h.square().mean()
    for stage in network.stages:
        h = stage(h)
    # Zeros around the image take some of it away at each layer; torch's own start would leave less than 1e-12.
    assert 0.003 < h.square().mean() / before < 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": -1}, r"network\.depth: found -1"),
        ({"pairs": 0}, r"network\.pairs: found 0"),
        ({"stride": 3}, r"network\.stride: found 3, expected 1 or 2"),
        ({"checkpoint_levels": 3}, r"network\.checkpoint_levels: found 3, expected 0 to 2"),
        ({"kernel_size": 4}, "kernel_size: found 4, expected odd"),
    ],
)
def test_settings_that_make_no_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PocketError, match=message):
        small(**settings)


def test_padding_cannot_take_channels_away() -> None:
    with pytest.raises(PocketError, match=r"network\.shortcut: pad cannot make 2 channels of 3"):
        PadShortcut(3, 2, 1, 2)


def test_checkpointed_levels_have_the_same_gradients() -> None:
    gradients = []
    for levels in (0, 2):
        network = small(checkpoint_levels=levels)
        network(torch.ones(2, 3, 8, 8)).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert torch.equal(first, second)
