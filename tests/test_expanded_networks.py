"""Networks with expanded layers: counts of the paper, equal training in both modes, and back to the compact network."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from shipped_networks import ROOT, build, parameters
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import (
    Expanded,
    ExpandedConv,
    ExpandedLinear,
    Expansion,
    InstanceNorm,
    LayerFactory,
    ResidualBlock,
    SeparableConv,
    WidthSchedule,
    as_plain,
    contract,
    contract_for_use,
    deployed_parameters,
    expand,
    is_expanded,
)
from lightning_pocket.networks import Network, UNet
from lightning_pocket.networks.backbones import load_backbone
from lightning_pocket.profiling.macs import count_layers, count_macs, count_macs_ptflops

NETWORKS = sorted(path.stem for path in (ROOT / "configs" / "networks").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def small_net(widths: tuple[int, ...], classes: int = 10) -> nn.Sequential:
    """SmallNet of ExpandNets: (3, 8, 16, 32, 64) channels in Table 6, (3, 8, 16, 32) in Table 9."""
    stages: list[nn.Module] = []
    for before, after in pairwise(widths):
        conv = nn.Conv2d(before, after, 7, padding=3)
        stages += [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    features = widths[-1] * (32 // 2 ** (len(widths) - 1)) ** 2
    return nn.Sequential(*stages, nn.Flatten(), nn.Linear(features, 64), nn.ReLU(), nn.Linear(64, classes))


FOUR, THREE = (3, 8, 16, 32, 64), (3, 8, 16, 32)
FC, CL, CK = {"linear": True}, {"conv": "cl"}, {"conv": "ck"}
TABLE_6 = [
    (FC, 2, 339402, 6303424), (FC, 4, 675914, 6639296), (FC, 8, 1742154, 7704256),
    (CL, 2, 562954, 25155552), (CL, 4, 2171554, 98386176), (CL, 8, 8578066, 389354304),
    (CK, 2, 237722, 14378368), (CK, 4, 653250, 42641216), (CK, 8, 2070098, 141102016),
]  # fmt: skip
TABLE_9 = {0.25: 37912, 0.5: 42810, 0.75: 48428, 1: 54766, 2: 87318, 4: 186982}


@pytest.mark.parametrize(("kind", "rate", "expected", "macs"), TABLE_6)
def test_table_6(kind: dict[str, Any], rate: float, expected: int, macs: int) -> None:
    network = small_net(FOUR)
    expand(network, Expansion(rate=rate, mode="layers", bias="all", **kind))
    assert parameters(network) == expected
    assert count_macs_ptflops(network, (1, 3, 32, 32)) == macs
    assert deployed_parameters(network) == 150346


def test_table_6_without_expansion() -> None:
    network = small_net(FOUR)
    assert expand(network, Expansion()) == []
    assert (parameters(network), count_macs_ptflops(network, (1, 3, 32, 32))) == (150346, 6115008)


@pytest.mark.parametrize(("classes", "more"), [(10, 0), (100, 5850)])
def test_table_9(classes: int, more: int) -> None:
    assert parameters(small_net(THREE, classes)) == 66186 + more
    for rate, expected in TABLE_9.items():
        network = small_net(THREE, classes)
        expand(network, Expansion("ck", rate=rate, bias="all", first_layer="code"))
        assert parameters(network) == expected + more


def test_the_two_rules_for_the_first_layer() -> None:
    for kind in ("cl", "ck"):
        for rule, width in (("paper", 12), ("code", 3)):
            network = small_net(THREE)
            expand(network, Expansion(kind, first_layer=rule))
            assert [network[place].factors[0].out_channels for place in (0, 4)] == [width, 32]


def loss(network: nn.Module, image: Tensor) -> Tensor:
    logits = network(image)
    return F.cross_entropy(
        logits,
        torch.arange(len(image)).reshape(-1, *(1,) * (logits.ndim - 2)).expand(len(image), *logits.shape[2:]) % 3,
    )


def subjects() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    thin = {"depth": 1, "widths": WidthSchedule(base=3, doublings=0)}
    residual = LayerFactory(conv=SeparableConv(), norm=InstanceNorm())
    return {
        "smallnet": (small_net((3, 4, 4), 3), (6, 3, 32, 32)),
        "unet 2d": (UNet(1, 3, spatial_dims=2, kernel_sizes=[[5, 5], [3, 3]], **thin), (3, 1, 8, 8)),
        "unet 3d": (UNet(1, 3, downsample="strided_conv", **thin), (3, 1, 4, 6, 4)),
        "separable": (UNet(1, 3, spatial_dims=2, layers=residual, block=ResidualBlock(), **thin), (3, 1, 8, 8)),
    }


@pytest.mark.parametrize("name", list(subjects()))
@pytest.mark.parametrize("kind", ["cl", "ck"])
def test_fused_and_layers_train_alike(name: str, kind: str) -> None:
    """Outputs, gradients and twenty steps with momentum and weight decay on the factors, in float64."""
    plain, shape = subjects()[name]
    networks = {}
    for mode in ("layers", "fused"):
        torch.manual_seed(1)
        networks[mode] = copy.deepcopy(plain).double()
        bias = "all" if name == "smallnet" else "last"
        expand(networks[mode], Expansion(kind, linear=True, rate=2, mode=mode, bias=bias))
    optimizers = {m: torch.optim.SGD(n.parameters(), 0.05, 0.9, weight_decay=0.01) for m, n in networks.items()}
    before = {name: value.detach().clone() for name, value in networks["fused"].named_parameters()}
    for step in range(20):
        image = torch.randn(shape, dtype=torch.float64)
        for mode, network in networks.items():
            optimizers[mode].zero_grad()
            loss(network, image).backward()
        with torch.no_grad():
            one, other = (network(image) for network in networks.values())
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11), step
        for a, b in zip(*(network.parameters() for network in networks.values()), strict=True):
            assert torch.allclose(a.grad, b.grad, rtol=1e-8, atol=1e-11)
        for optimizer in optimizers.values():
            optimizer.step()
    for (key, a), b in zip(networks["layers"].named_parameters(), networks["fused"].parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-8, atol=1e-10)
        assert not torch.allclose(b, before[key], rtol=1e-4, atol=1e-6), key  # twenty steps did something


#: Settings that make a network small; the others have widths by level.
SMALL: dict[str, dict[str, Any]] = {
    "deeplab": {"width": 0.05},
    "small_net": {"channels": [4, 6], "hidden": 5},
    "small_net_4": {"channels": [4, 4, 6, 6], "hidden": 5},
    "mobilenet": {"width": 0.1, "stem": "cifar"},
    "mobilenet_v2": {"width": 0.1, "stem": "cifar"},
    "shufflenet_v2": {"channels": [4, 4, 8, 8, 8], "stem": "cifar"},
    "resnet18": {"width": 0.1},
    "resnet18_cifar": {"width": 0.1},
    "resnet152": {"width": 0.05, "num_layers": 50},
    "all_cnn": {"width": 0.1},
    **{name: {"depth": 2, "widths.base": 3} for name in ("unet", "resnet", "densenet")},
}
#: Networks that are not made of a kind of layer, and so have no setting for expansion.
FIXED = {"alexnet", "lenet5"}


def small(name: str, *presets: str) -> Network:
    size = SMALL.get(name, {"widths.base": 3})
    torch.manual_seed(0)
    return build(name, *presets, device="cpu", in_channels=2, **size)


@pytest.mark.parametrize("preset", ["expanded_cl", "expanded_ck"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name not in FIXED])
def test_every_network_trains_and_contracts(name: str, preset: str) -> None:
    """One step moves every factor, and the result is the plain network's architecture, to the last name."""
    plain, network = small(name), small(name, preset)
    assert is_expanded(network)
    assert not is_expanded(plain)
    assert deployed_parameters(network) == parameters(plain)
    layers = [layer for layer in network.modules() if isinstance(layer, Expanded)]
    x = torch.randn(2, 2, *(2 * step for step in network.divisor))
    optimizer = torch.optim.Adam(network.parameters())
    network(x).square().mean().backward()
    optimizer.step()
    with_gradients = [layer for layer in layers if all(f.weight.grad.any() for f in layer.factors)]
    assert len(with_gradients) >= 0.6 * len(layers)  # units of few channels may be dead, in the plain network too
    network.eval()
    for layer in layers:  # the contraction against the row of layers, through the whole network
        layer.mode = "layers"
    with torch.no_grad():
        expected = network.double()(x.double())
        assert contract(network) == len(layers)
        found = network(x.double())
    assert (found - expected).abs().max() <= 1e-10 * expected.abs().max().clamp_min(1e-30)
    assert repr(network) == repr(plain.eval())
    plain.load_state_dict(network.state_dict())
    assert not is_expanded(network)


def test_what_the_words_select() -> None:
    def names(expansion: Expansion, **settings: Any) -> set[str]:
        network = UNet(
            1,
            2,
            spatial_dims=2,
            depth=1,
            widths=WidthSchedule(base=2),
            layers=LayerFactory(**settings, expansion=expansion),
        )
        return {name for name, module in network.named_modules() if isinstance(module, Expanded)}

    encoder = {f"encoder.{level}.{unit}.0" for level in (0, 1) for unit in (0, 1)}
    decoder = {"decoder.0.0.0", "decoder.0.1.0"}
    assert names(Expansion("cl")) == encoder | decoder | {"upsample.0"}
    assert names(Expansion("cl", select="encoder")) == encoder
    assert names(Expansion("ck", without_ck="cl")) == encoder | decoder | {"upsample.0"}
    assert names(Expansion("cl", select=["decoder.0.0", "heads"])) == {"decoder.0.0.0", "heads.0"}
    assert names(Expansion("cl", select=["encoder", "upsample"])) == encoder | {"upsample.0"}
    separable = {"conv": SeparableConv()}
    depthwise = {f"{name}.0" for name in encoder | decoder} - {"encoder.0.0.0.0"}  # one channel: not depthwise
    assert names(Expansion("cl", select="depthwise"), **separable) == depthwise


K3 = {"kernel_size": 3, "padded": False}


@pytest.mark.parametrize(
    ("name", "presets", "settings", "expected"),
    [
        ("small_net", ["expanded_cl", "expanded_code"], K3, 109_086),
        ("small_net", ["expanded_cl", "expanded_code"], {}, 547_102),
        ("small_net", ["expanded_cl", "expanded_fc", "expanded_code"], {}, 2_105_886),
        ("small_net", ["expanded_fc", "expanded_code"], {}, 1_624_970),
        ("small_net", ["expanded_ck", "expanded_fc", "expanded_code"], {}, 1_745_766),
        ("mobilenet", ["expanded_cl"], {"out_channels": 1000}, 4_958_348),
        ("mobilenet_v2", ["expanded_mobilenet_v2"], {"out_channels": 1000}, 3_666_108),
        ("shufflenet_v2", ["expanded_cl"], {"out_channels": 1000}, 1_526_428),
    ],
)
def test_counts_of_the_released_networks(
    name: str, presets: list[str], settings: dict[str, Any], expected: int
) -> None:
    given = {"in_channels": 3, "out_channels": 10, **settings}
    network = build(name, *presets, **given)
    assert parameters(network) == expected
    assert deployed_parameters(network) == parameters(build(name, **given))


def test_words_for_single_convolutions() -> None:
    network = build("mobilenet_v2", "expanded_mobilenet_v2", in_channels=3)
    found = [name for name, module in network.named_modules() if isinstance(module, Expanded)]
    assert found == ["features.0.0", *(f"features.{block}.conv.1.0" for block in (2, 4, 7, 14))]
    network = build("small_net", "expanded_fc", in_channels=3)
    assert [name for name, module in network.named_modules() if isinstance(module, Expanded)] == ["fc1"]


def test_linear_layers_but_the_last() -> None:
    network = small_net(THREE)
    expand(network, Expansion(linear=True))
    assert [type(layer) for layer in network if isinstance(layer, nn.Linear | Expanded)] == [ExpandedLinear, nn.Linear]
    expand(network, Expansion("cl", linear=True, select=["15", "0"]))
    assert isinstance(network[15], ExpandedLinear)
    assert isinstance(network[0], ExpandedConv)
    assert type(network[4]) is nn.Conv2d


@pytest.mark.parametrize(
    ("expansion", "reason"),
    [
        (Expansion("cl", select="encoders"), "'encoders', expected all, encoder, depthwise, .*first or the name"),
        (Expansion("cl", select="encoder"), "Sequential has none"),
        (Expansion("cl", select="depthwise"), "leaves none of the network's convolutions"),
        (Expansion("ck", without_ck="plain"), "leaves none"),
        (Expansion(linear=True), "leaves none of the network's linear layers"),
    ],
)
def test_what_selects_nothing_is_refused(expansion: Expansion, reason: str) -> None:
    with pytest.raises(PocketError, match=reason):
        expand(nn.Sequential(nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(8, 2)), expansion)


def test_a_refusal_names_the_layer() -> None:
    with pytest.raises(PocketError, match=r"The layer is upsample\.0"):
        UNet(1, 2, depth=1, layers=LayerFactory(expansion=Expansion("cl", bias="all")))


@pytest.mark.parametrize("rate", [1e8, 1e30])
def test_rates_beyond_the_memory_are_refused(rate: float) -> None:
    with pytest.raises(PocketError, match=r"rate: found 1e\+\d\d, with which 0 is too large"):
        expand(nn.Sequential(nn.Conv2d(4, 4, 3)), Expansion("cl", rate=rate))


def test_who_reads_features_reads_them_of_the_contracted_layer_too() -> None:
    network = nn.Sequential(nn.Conv2d(2, 2, 3))
    (layer,) = expand(network, Expansion("cl", rate=1))
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda _module, inputs, output: seen.extend((*inputs, output)))
    layer.register_forward_pre_hook(lambda _module, inputs, _named: seen.extend(inputs), with_kwargs=True)
    copied = copy.deepcopy(network)
    contract(copied)
    x = torch.randn(1, 2, 5, 5)
    y = copied(x)
    assert [id(tensor) for tensor in seen] == [id(x), id(x), id(y)]


def test_a_layer_used_twice_stays_one() -> None:
    shared = nn.Conv2d(2, 2, 3, padding=1)
    network = nn.Sequential(shared, nn.ReLU(), shared)
    assert len(expand(network, Expansion("cl"))) == 1
    assert network[0] is network[2]
    assert contract(network) == 1
    assert network[0] is network[2]


@pytest.mark.parametrize(("kind", "rate"), [("cl", 1), ("ck", 4)])
def test_an_exact_start_is_that_of_the_plain_network(kind: str, rate: float) -> None:
    def made(expansion: Expansion) -> nn.Module:
        torch.manual_seed(3)
        layers = LayerFactory(expansion=expansion, initializer="glorot_uniform")
        return UNet(
            1, 2, spatial_dims=2, depth=1, widths=WidthSchedule(base=2), kernel_sizes=[[5, 5], [3, 3]], layers=layers
        )

    plain, exact = made(Expansion()), made(Expansion(kind, rate=rate, init="exact"))
    factors = made(Expansion(kind, rate=rate))
    x = torch.randn(1, 1, 8, 8)
    assert torch.allclose(exact(x), plain(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(factors(x), plain(x), rtol=1e-2, atol=1e-2)
    bound = (6 / (9 * (rate * 2 + rate * 2))) ** 0.5 if kind == "ck" else None
    if bound:  # the network's initializer draws the factors
        weight = factors.encoder[0][1][0].factors[0].weight
        assert 0.8 * bound < weight.abs().max() <= (6 / (9 * (2 + 2 * rate))) ** 0.5


def test_start_is_the_contraction_of_the_expanded_start() -> None:
    def made(mode: str) -> nn.Module:
        torch.manual_seed(4)
        network = small_net((3, 4, 4))
        expand(network, Expansion("ck", linear=True, mode=mode))
        return network

    start, fused = made("start"), made("fused")
    assert not is_expanded(start)
    contract(fused)
    assert all(torch.equal(a, b) for a, b in zip(start.parameters(), fused.parameters(), strict=True))


def test_factors_may_come_from_the_nonlinear_counterpart() -> None:
    networks = []
    for mode in ("nonlinear", "fused"):
        networks.append(small_net((3, 4, 4)))
        expand(networks[-1], Expansion("ck", linear=True, mode=mode))
    counterpart, network = networks
    network.load_state_dict(counterpart.state_dict())
    with pytest.raises(PocketError, match="cannot be contracted"):
        contract(counterpart)
    with pytest.raises(PocketError, match="cannot be contracted"), as_plain(counterpart):
        pass
    assert contract_for_use(counterpart) == 0
    assert deployed_parameters(counterpart) == parameters(counterpart)
    assert contract(network) == 3


def test_weights_that_the_compact_network_is_given() -> None:
    network = small_net((3, 4, 4))
    expand(network, Expansion("cl", rate=2))
    kept = copy.deepcopy(network[4].state_dict())
    weight = torch.randn(4, 3, 7, 7)
    with as_plain(network):
        assert type(network[0]) is nn.Conv2d
        network[0].weight.data.copy_(weight)
    assert torch.allclose(network[0].contracted().weight, weight, atol=1e-5)
    assert all(torch.equal(value, kept[name]) for name, value in network[4].state_dict().items())


def test_a_backbone_takes_published_weights_as_products(tmp_path: Path) -> None:
    plain, network = small("fcn"), small("fcn", "expanded_cl")
    untouched = copy.deepcopy(network.upsample.state_dict())
    torch.manual_seed(7)
    weights = {name: torch.randn_like(value) for name, value in plain.backbone.state_dict().items()}
    torch.save(weights, tmp_path / "vgg.pth")
    load_backbone(network.backbone, tmp_path / "vgg.pth")
    assert is_expanded(network.backbone)
    assert all(torch.equal(value, untouched[name]) for name, value in network.upsample.state_dict().items())
    contract(network)
    for name, value in network.backbone.state_dict().items():
        assert torch.allclose(value, weights[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("mode", ["fused", "layers", "start"])
def test_networks_without_memory_are_expanded_and_contracted(mode: str) -> None:
    network = build("unet", "pocket", **{"layers.expansion": {"conv": "ck", "mode": mode, "init": "exact", "rate": 1}})
    assert all(parameter.is_meta for parameter in network.parameters())
    contract(network)
    assert parameters(network) == 763010


def test_macs_of_fused_layers() -> None:
    """The convolution, and the products that make its kernel once for all images of a batch."""
    network = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU())
    expand(network, Expansion("cl", rate=2))
    kernel = 9 * (12 * 8 * 4 + 6 * 12 * 4)  # r m + n = 14, r n + m = 16: 1x1 and 3x3 first
    assert count_macs(network, (5, 4, 10, 10)) == 5 * 100 * 6 * 4 * 9 + kernel
    assert [(layer.name, layer.kind) for layer in count_layers(network, (1, 4, 10, 10))] == [
        ("0", "ExpandedConv"),
        ("1", "ReLU"),
    ]
    transposed = nn.Sequential(nn.ConvTranspose2d(4, 6, 2, 2))
    expand(transposed, Expansion("cl", rate=2))
    assert count_macs(transposed, (1, 4, 5, 5)) == 25 * 4 * 6 * 4 + 4 * min(
        8 * 12 * 6 + 4 * 8 * 6, 4 * 8 * 12 + 4 * 12 * 6
    )
