"""Asymmetric convolution blocks (ACNet), and their exact fusion into one convolution."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import ExpandedLinear, Expansion, InstanceNorm, LayerFactory
from lightning_pocket.layers.asymmetric import AsymmetricBlock
from lightning_pocket.networks import MobileNet, MobileNetV2, Network, ShuffleNetV2, SmallNet
from lightning_pocket.networks.asymmetric import fuse_asymmetric, to_asymmetric
from lightning_pocket.speed import folded


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Return the module in double precision, with statistics and affine parameters of no special value."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            for tensor in (layer.running_mean, layer.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            for tensor in (layer.running_var, layer.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return module


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_convolution_is_not_expanded_too() -> None:
    with pytest.raises(PocketError, match=r"layers\.expansion has taken the place of units\.0\.conv"):
        SmallNet(3, 10, layers=LayerFactory(expansion=Expansion("cl")), asymmetric=True)
    both = SmallNet(3, 10, layers=LayerFactory(expansion=Expansion(linear=True)), asymmetric=True)
    assert isinstance(both.units[0].conv, AsymmetricBlock)
    assert isinstance(both.fc1, ExpandedLinear)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 7, "padding": 3, "stride": 2},
        {"kernel_size": 5, "padding": 2, "dilation": 2, "bias": False},  # cut at the border: the reach is 4
        {"kernel_size": 3, "padding": 0},
        {"kernel_size": 3, "padding": 2},
        {"kernel_size": (3, 5), "padding": (1, 0), "stride": (2, 1)},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "groups": 4, "stride": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("dims", [2, 3])
def test_one_convolution_does_the_same(dims: int, settings: dict[str, object]) -> None:
    if dims == 3 and isinstance(settings["kernel_size"], tuple):
        settings = {key: (*value, value[0]) for key, value in settings.items()}  # type: ignore[misc]
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims](4, 8, **settings)
    norm = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dims](8, eps=1e-3)
    block = randomize(AsymmetricBlock(conv, norm))
    x = noise(2, 4, *(9, 11, 10)[:dims])
    fused = block.fused()
    assert (fused.kernel_size, fused.stride, fused.groups) == (conv.kernel_size, conv.stride, conv.groups)
    expected = block(x)
    assert expected.shape == conv.double()(x).shape
    difference = (fused(x) - expected).abs()
    assert difference.max() < 1e-10  # borders included


def test_a_block_is_the_sum_of_three_convolutions_with_norms() -> None:
    block = randomize(AsymmetricBlock(nn.Conv2d(3, 4, 5, padding=2), nn.BatchNorm2d(4)))
    x = noise(2, 3, 8, 9)

    def branch(part: nn.Sequential, padding: tuple[int, int]) -> Tensor:
        weight, norm = part[0].weight, part[1]
        h = F.conv2d(x, weight, padding=padding)
        return F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias)

    assert [tuple(line[0].weight.shape[2:]) for line in block.lines] == [(5, 1), (1, 5)]
    total = branch(block.square, (2, 2)) + branch(block.lines[0], (2, 0)) + branch(block.lines[1], (0, 2))
    torch.testing.assert_close(block(x), total)
    taps = (block.fused().weight != 0).double().mean((0, 1))
    assert torch.equal(taps, torch.ones(5, 5, dtype=torch.float64))


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (nn.Conv2d(1, 1, 4), "odd sides"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "mode reflect"),
        (nn.Conv2d(1, 1, 3, padding="same"), "padding same"),
    ],
)
def test_convolutions_that_no_block_can_stand_for(conv: nn.Module, message: str) -> None:
    with pytest.raises(PocketError, match=message):
        AsymmetricBlock(conv, nn.BatchNorm2d(1))


SHAPES = {SmallNet: 32, MobileNet: 32, MobileNetV2: 32, ShuffleNetV2: 32}


@pytest.mark.parametrize("cls", SHAPES, ids=lambda cls: cls.__name__)
def test_a_network_is_fused_to_its_plain_form(cls: type[Network]) -> None:
    torch.manual_seed(0)
    network = randomize(cls(3, 5, asymmetric=True))
    blocks = [name for name, module in network.named_modules() if isinstance(module, AsymmetricBlock)]
    with torch.device("meta"):
        plain = cls(3, 5)
    spatial = [n for n, m in plain.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
    assert blocks == spatial
    x = noise(2, 3, 64, 32)
    expected = network(x)
    for fused in (folded(network), fuse_asymmetric(network)):
        assert not any(isinstance(module, AsymmetricBlock) for module in fused.modules())
        # The norm has become part of the convolution.
        before, after = (
            sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (plain, fuse_asymmetric(network))
        )
        assert after == before - len(spatial)
        assert (fused(x) - expected).abs().max() < 1e-10 * max(1.0, expected.abs().max())


def test_parameters_that_the_blocks_add() -> None:
    def parameters(network: Network) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    channels = list(pairwise([3, 8, 16, 32]))
    lines = sum(2 * 7 * before * after for before, after in channels)
    norms = sum(2 * 2 * after for _, after in channels)
    biases = sum(after for _, after in channels)  # a batch norm follows
    assert parameters(SmallNet(3, 10, asymmetric=True)) == 66_186 + lines + norms - biases


def test_a_pattern_chooses_and_a_norm_is_needed() -> None:
    network = MobileNet(3, 5)
    assert to_asymmetric(network, "blocks.[01].depthwise") == ["blocks.0.depthwise", "blocks.1.depthwise"]
    assert isinstance(network.blocks[0].depthwise_norm, nn.Identity)
    assert isinstance(network.blocks[2].depthwise_norm, nn.BatchNorm2d)
    with pytest.raises(PocketError, match="no convolution with a kernel above 1 is called 'head'"):
        to_asymmetric(network, "head")
    with pytest.raises(PocketError, match=r"no batch norm follows the convolution units\.0\.conv"):
        SmallNet(3, 5, layers=LayerFactory(norm=InstanceNorm()), asymmetric=True)


def test_blocks_learn() -> None:
    torch.manual_seed(0)
    network = SmallNet(3, 2, asymmetric=True)
    x, target = torch.randn(16, 3, 32, 32), torch.arange(16) % 2
    x[target == 1, :, :, 10] += 2  # a line along one axis
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(x), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
