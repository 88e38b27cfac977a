"""The classifiers of ExpandNets, its teachers, and the classic networks: counts, wiring and weights of files."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.fx
import torch.nn.functional as F
from shipped_networks import ROOT, arguments, parameters, parser
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import GroupedConv, LayerFactory, NoNorm
from lightning_pocket.networks import (
    VGG,
    AlexNet,
    AllCNN,
    LeNet5,
    MobileNet,
    MobileNetV2,
    Network,
    ResNet,
    ShuffleNetV2,
    SmallNet,
)
from lightning_pocket.networks.backbones import MobileNetV2 as Encoder
from lightning_pocket.profiling.macs import count_macs, count_macs_ptflops

GOLDEN = json.loads((ROOT / "tests" / "golden" / "expandnets_networks.json").read_text(encoding="utf-8"))["networks"]
CLASSES = (AlexNet, AllCNN, LeNet5, MobileNet, MobileNetV2, ResNet, ShuffleNetV2, SmallNet, VGG)


def build(row: dict[str, Any]) -> Network:
    plain = {"in_channels": row.get("in_channels", 3), "out_channels": row["classes"]}
    line = [*arguments(row["config"], **plain), f"--holder.network.init_args={json.dumps(row['settings'])}"]
    with torch.device("meta"):
        return parser().instantiate(parser().parse_args(line)).holder.network


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: f"{row['config']}-{row['classes']}-{row['parameters']}")
def test_counts_are_those_of_the_papers(row: dict[str, Any]) -> None:
    network = build(row)
    assert parameters(network) == row["parameters"]
    shape = (1, network.in_channels, row["image_size"], row["image_size"])
    if "macs" in row:
        assert count_macs(network, shape) == row["macs"]
    if "macs_ptflops" in row:
        assert count_macs_ptflops(network, shape) == row["macs_ptflops"]


@pytest.mark.parametrize(("classes", "expected"), [(11, 31_044_171), (19, 31_044_691)])
def test_the_unet_has_the_classic_widths(classes: int, expected: int) -> None:
    def pair(before: int, after: int) -> int:  # two convolutions with bias and batch norm
        return 9 * before * after + 9 * after * after + 2 * 3 * after

    widths = [64, 128, 256, 512, 1024]
    down = sum(pair(before, after) for before, after in pairwise([3, *widths]))
    up = sum(4 * below * own + own + pair(2 * own, own) for own, below in pairwise(widths))
    row = {"config": "expandnets_unet", "settings": {}, "classes": classes}
    assert parameters(build(row)) == down + up + 65 * classes == expected


def plain_small_net(channels: list[int], kernel: int, padding: int, hidden: int, classes: int) -> nn.Sequential:
    """The network as a reader of the paper would write it down."""
    layers: list[nn.Module] = []
    for before, after in pairwise([3, *channels]):
        layers += [nn.Conv2d(before, after, kernel, padding=padding), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    left = 32
    for _ in channels:
        left = (left + 2 * padding - kernel + 1) // 2
    features = channels[-1] * left**2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, hidden), nn.ReLU(), nn.Linear(hidden, classes))


@pytest.mark.parametrize(("kernel", "padded"), [(3, False), (5, True), (7, True), (9, True)])
@pytest.mark.parametrize("channels", [[8, 16, 32], [4, 8, 16, 32]])
def test_small_net_computes_what_the_paper_says(kernel: int, padded: bool, channels: list[int]) -> None:
    if len(channels) > 3 and not padded:
        pytest.skip("nothing of 32 pixels is left")
    torch.manual_seed(0)
    reference = plain_small_net(channels, kernel, kernel // 2 if padded else 0, 64, 10).eval()
    network = SmallNet(3, 10, channels=channels, kernel_size=kernel, padded=padded).eval()
    for own, other in zip(network.state_dict().values(), reference.state_dict().values(), strict=True):
        own.copy_(other)
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(network(x), reference(x))
    assert network(torch.randn(2, 3, 64, 96)).shape == (2, 10)  # averaged to the same number of features


def test_small_net_refuses_what_leaves_nothing() -> None:
    with pytest.raises(PocketError, match=r"network\.image_size: found 16, of which nothing is left"):
        SmallNet(3, 10, kernel_size=3, padded=False, image_size=16)
    assert SmallNet(3, 10, kernel_size=3, padded=False).divisor == (32, 32)
    with pytest.raises(PocketError, match=r"network\.padded: is false, which needs layers\.conv StandardConv"):
        SmallNet(3, 10, padded=False, layers=LayerFactory(conv=GroupedConv(1)))
    for wrong in ({"channels": []}, {"kernel_size": 4}, {"hidden": 0}):
        with pytest.raises(PocketError, match=f"network.{next(iter(wrong))}: found"):
            SmallNet(3, 10, **wrong)


def test_the_stem_decides_how_much_resolution_is_lost() -> None:
    for cls, strides in ((MobileNet, (32, 16)), (MobileNetV2, (32, 8)), (ShuffleNetV2, (32, 8)), (ResNet, (32, 8))):
        for stem, stride in zip(("imagenet", "cifar"), strides, strict=True):
            network = cls(3, 2, stem=stem).eval()
            assert network.divisor == (stride, stride)
            pooled: list[tuple[int, ...]] = []
            pool = network.avgpool if cls is ResNet else network.pool
            pool.register_forward_hook(lambda _, inputs, __, seen=pooled: seen.append(inputs[0].shape[2:]))
            network(torch.zeros(1, 3, 2 * stride, 3 * stride))
            assert pooled == [(2, 3)], cls


def test_the_classifier_is_the_encoder_of_deeplab_and_a_head() -> None:
    torch.manual_seed(0)
    network = MobileNetV2(3, 7).eval()
    encoder = Encoder(3, 2, 32, LayerFactory()).eval()
    fitting = {name: tensor for name, tensor in network.state_dict().items() if name in encoder.state_dict()}
    conv_bias = [name for name in encoder.state_dict() if name not in fitting]
    assert conv_bias == ["features.0.0.bias"]  # of the default layers of the test
    encoder.load_state_dict(fitting, strict=False)
    nn.init.zeros_(encoder.features[0][0].bias)
    x = torch.randn(2, 3, 64, 64)
    features = network.features[18](encoder(x)[1]).mean((2, 3))
    torch.testing.assert_close(network(x), network.classifier(features))


def test_a_shuffle_block_interleaves_both_halves() -> None:
    block = ShuffleNetV2(3, 2).eval().stage2[1]
    x = torch.randn(2, 48, 4, 4)
    joined = block(x)
    assert torch.equal(joined[:, 0::2], x[:, :24])  # the half that is left alone
    torch.testing.assert_close(joined[:, 1::2], block.branch2(x[:, 24:]))


def test_small_inverted_residuals_have_a_shortcut_unless_there_is_a_stride() -> None:
    blocks = list(MobileNetV2(3, 10, stem="cifar").features)[1:-1]
    kinds = ["none" if b.shortcut is None else type(b.shortcut).__name__ for b in blocks]
    identity = ["Identity"]
    # 16; 24 24; 32 x3; 64 x4; 96 x3; 160 x3; 320: a first block of another width and stride 1 has a convolution.
    stages = [["Sequential"], ["Sequential", *identity], ["none", *identity * 2], ["none", *identity * 3]]
    stages += [["Sequential", *identity * 2], ["none", *identity * 2], ["Sequential"]]
    assert kinds == [kind for stage in stages for kind in stage]
    assert all(isinstance(b.conv.expand, nn.Conv2d) for b in blocks)


def test_lenet_of_1998() -> None:
    torch.manual_seed(0)
    network = LeNet5(1, 10, variant="original").eval()
    groups = {"c1": 156, "s2": 12, "c3": 1516, "s4": 32, "c5": 48120, "f6": 10164}  # section II-B of the paper
    assert {name: parameters(network.get_submodule(name)) for name in groups} == groups
    assert parameters(network.output) == 0
    assert [len(seen) for seen in network.c3[0].seen] == [3] * 6 + [4] * 9 + [6]
    counts = [sum(map_ in seen for seen in network.c3[0].seen) for map_ in range(6)]
    assert counts == [10] * 6  # Table I: every column has ten crosses
    assert len(set(network.c3[0].seen)) == 16
    centres = network.output.centres
    assert centres.shape == (10, 84)
    assert set(centres.unique().tolist()) == {-1.0, 1.0}
    distance = torch.cdist(centres, centres)
    assert distance[~torch.eye(10, dtype=torch.bool)].min() > 4  # more than four pixels tell any two digits apart
    assert torch.equal(network.output(centres).argmax(1), torch.arange(10))
    x = torch.randn(2, 84)
    torch.testing.assert_close(network.output(x), -torch.cdist(x, centres).square(), atol=1e-3, rtol=1e-4)
    pool = network.s2[0]
    with torch.no_grad():
        pool.factor.fill_(0.5)
        pool.shift.fill_(1.0)
    h = torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(pool(h), 0.5 * F.avg_pool2d(h, 2) * 4 + 1)
    assert network.c1[1](torch.ones(1)).item() == pytest.approx(1.0, abs=1e-4)
    with pytest.raises(PocketError, match="output are the ten digits, but there are 11 classes"):
        LeNet5(1, 11, variant="original")


def test_alexnet_of_2012_has_groups_and_normalizes() -> None:
    with torch.device("meta"):
        network = AlexNet(3, 1000, variant="original")
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert [conv.groups for conv in convs] == [1, 2, 1, 2, 2]
    assert sum(isinstance(module, nn.LocalResponseNorm) for module in network.modules()) == 2
    with pytest.raises(PocketError, match=r"spatial size \(32, 32\), expected at least 64"):
        AlexNet(3, 2, width=0.05)(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_torch_fx_follows_every_network(cls: type[Network]) -> None:
    torch.manual_seed(0)
    small = {AlexNet: {"width": 0.1}, VGG: {"hidden": 8}}.get(cls, {})
    network = cls(3, 5, **small).eval()
    traced = torch.fx.symbolic_trace(network)
    for size in (64, 96):
        x = torch.randn(1, 3, size, size)
        assert torch.equal(traced(x), network(x))


# Weights of files. The layouts are written down here as torchvision names them.


def alexnet_layout() -> dict[str, tuple[int, ...]]:
    convs = {0: (64, 3, 11, 11), 3: (192, 64, 5, 5), 6: (384, 192, 3, 3), 8: (256, 384, 3, 3), 10: (256, 256, 3, 3)}
    linear = {1: (4096, 9216), 4: (4096, 4096), 6: (1000, 4096)}
    named = {f"features.{i}": shape for i, shape in convs.items()} | {f"classifier.{i}": s for i, s in linear.items()}
    return {f"{name}.{key}": s for name, shape in named.items() for key, s in (("weight", shape), ("bias", shape[:1]))}


def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    found = {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")}
    return found | {f"{name}.num_batches_tracked": ()}


def resnet18_layout() -> dict[str, tuple[int, ...]]:
    layout = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{stage}.{block}"
            layout |= {f"{name}.conv1.weight": (width, before, 3, 3), f"{name}.conv2.weight": (width, width, 3, 3)}
            layout |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            if before != width:
                layout |= {f"{name}.downsample.0.weight": (width, before, 1, 1), **norm(f"{name}.downsample.1", width)}
            before = width
    return layout | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


def shufflenet_layout() -> dict[str, tuple[int, ...]]:
    layout = {"conv1.0.weight": (24, 3, 3, 3), **norm("conv1.1", 24)}
    before = 24
    for stage, (width, blocks) in enumerate(((48, 4), (96, 8), (192, 4)), start=2):
        half = width // 2
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            if block == 0:
                layout |= {f"{name}.branch1.0.weight": (before, 1, 3, 3), **norm(f"{name}.branch1.1", before)}
                layout |= {f"{name}.branch1.2.weight": (half, before, 1, 1), **norm(f"{name}.branch1.3", half)}
            seen = before if block == 0 else half
            layout |= {f"{name}.branch2.0.weight": (half, seen, 1, 1), **norm(f"{name}.branch2.1", half)}
            layout |= {f"{name}.branch2.3.weight": (half, 1, 3, 3), **norm(f"{name}.branch2.4", half)}
            layout |= {f"{name}.branch2.5.weight": (half, half, 1, 1), **norm(f"{name}.branch2.6", half)}
        before = width
    layout |= {"conv5.0.weight": (1024, 192, 1, 1), **norm("conv5.1", 1024)}
    return layout | {"fc.weight": (1000, 1024), "fc.bias": (1000,)}


TORCHVISION = json.loads((ROOT / "tests" / "golden" / "torchvision_layouts.json").read_text(encoding="utf-8"))
LAYOUTS = {
    "alexnet": (AlexNet, alexnet_layout(), 61_100_840),
    "resnet18": (ResNet, resnet18_layout(), 11_689_512),
    "shufflenet_v2": (ShuffleNetV2, shufflenet_layout(), 1_366_792),
    "mobilenet_v2": (MobileNetV2, TORCHVISION["mobilenet_v2"], 3_504_872),
}


def numbered(shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Return a state dict whose tensors each repeat one number of their own, so that its file is small."""
    return {
        name: torch.tensor(index) if not shape else torch.full((1,), index / 1000).expand(*shape)
        for index, (name, shape) in enumerate(shapes.items(), start=1)
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_files_of_torchvision_fit(name: str, tmp_path: Path) -> None:
    cls, shapes, published = LAYOUTS[name]
    learned = [key for key in shapes if key.endswith((".weight", ".bias"))]
    assert sum(prod(shapes[key]) for key in learned) == published
    file, saved = tmp_path / "weights.pth", numbered(shapes)
    torch.save(saved, file)
    network = cls(3, 1000, weights=str(file))
    message = network.load_pretrained()
    read = sum(not key.endswith("num_batches_tracked") for key in shapes)
    assert message == f"{cls.__name__}: {read} tensors from {file}"
    state = network.state_dict()
    assert state.keys() == shapes.keys()
    assert all(torch.equal(tensor, saved[key]) for key, tensor in state.items())


@pytest.mark.parametrize("name", ["vgg16", "resnet101"])
def test_the_names_of_large_networks_are_torchvision_s(name: str) -> None:
    with torch.device("meta"):
        network = VGG(3, 1000, layers=LayerFactory(norm=NoNorm())) if name == "vgg16" else ResNet(3, 1000, 2, 101)
    assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == TORCHVISION[name]


def test_other_classes_and_grey_images_begin_with_what_fits(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.manual_seed(0)
    first = ResNet(3, 6, width=0.1)
    torch.save(first.state_dict(), file)
    network = ResNet(1, 4, width=0.1, weights=str(file))
    head = network.fc.weight.clone()
    message = network.load_pretrained()
    assert re.search(
        r"first kernels summed over RGB for one channel, all but its last layer for 6 classes instead of 4", message
    )
    assert torch.equal(network.fc.weight, head)
    assert torch.equal(network.layer4[1].conv2.weight, first.layer4[1].conv2.weight)
    torch.testing.assert_close(network.conv1.weight, first.conv1.weight.sum(1, keepdim=True))
    with pytest.raises(PocketError, match=r"network\.weights: .* does not fit ResNet: .*wrong shape in"):
        ResNet(3, 6, width=0.2, weights=str(file)).load_pretrained()
    with pytest.raises(PocketError, match=r"network\.weights: .*: no such file"):
        ResNet(3, 6, weights=str(tmp_path / "absent.pth")).load_pretrained()
    assert ResNet(3, 6, width=0.1).load_pretrained() == ""
