"""Channels that are divided, interleaved and put together again: removed exactly, and without a step of their own."""

from typing import Any

import pytest
import torch
from compact_families import draw_statistics, kill
from torch import Tensor, nn

from lightning_pocket.compact.reduce import reduce_network
from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory
from lightning_pocket.networks import AlexNet, ShuffleNetV2
from lightning_pocket.networks.shufflenet_v2 import ShuffleBlock

SIZES = {2: ((7, 9), (12, 5)), 3: ((5, 7, 4), (6, 3, 8))}


class Divided(nn.Module):
    """Two parts of unlike width, each with a convolution of its own, interleaved in three groups, and one more."""

    def __init__(self, dims: int, how: str) -> None:
        super().__init__()
        conv: Any = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.how = how
        self.first = conv(2, 9, 3, padding=1)
        self.left, self.right = conv(4, 6, 3, padding=1), conv(5, 3, 1)
        self.shuffle = nn.ChannelShuffle(3)
        self.last = conv(9, 4, 3, padding=1, groups=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        if self.how == "split":
            left, right = h.split([4, 5], 1)
        elif self.how == "tensor_split":
            left, right = torch.tensor_split(h, [4], dim=-1 - self.first.weight.ndim + 2)
        else:
            left, right = h.narrow(1, 0, 4), torch.narrow(h, 1, 4, 5)
        return self.last(self.shuffle(torch.cat([self.left(left), self.right(right)], 1)))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("how", ["split", "tensor_split", "narrow"])
def test_divided_and_interleaved_channels(how: str, dims: int) -> None:
    torch.manual_seed(3)
    network = Divided(dims, how).double().eval()
    kill(network, 0.4)
    reduced = reduce_network(network, (2, *SIZES[dims][0])).network
    for size in SIZES[dims]:
        x = torch.randn(2, 2, *size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(reduced(x), network(x), rtol=1e-12, atol=1e-12)
    assert sum(p.numel() for p in reduced.parameters()) < sum(p.numel() for p in network.parameters())
    assert not [step for step in reduced.architecture.steps if "shuffle" in step.name]  # an order costs nothing


def test_a_division_of_other_axes_is_refused() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            top, bottom = x.chunk(2, dim=2)
            return torch.cat([bottom, top], 1)

    with pytest.raises(PocketError, match=r"chunk along axis 2; expected the channels, 1"):
        reduce_network(Halves(), (2, 8, 8))


def test_a_block_interleaves_both_halves() -> None:
    """Channel 2i is the i-th of the left half, 2i + 1 the i-th of the right (Ma et al., ECCV 2018, Figure 3c)."""
    torch.manual_seed(0)
    block = ShuffleBlock(8, 8, 1, LayerFactory(), 2).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        found, right = block(x), block.branch2(x[:, 4:])
    torch.testing.assert_close(found[:, 0::2], x[:, :4])
    torch.testing.assert_close(found[:, 1::2], right)


def test_an_image_that_is_too_small_is_named() -> None:
    with pytest.raises(PocketError, match="AlexNet"):
        reduce_network(AlexNet(1, 2, width=0.05), (1, 32, 32))


def test_a_whole_network() -> None:
    torch.manual_seed(1)
    network = ShuffleNetV2(1, 3, channels=[4, 8, 12, 16, 20], stem="cifar").double().eval()
    draw_statistics(network)
    kill(network, 0.3)
    reduced = reduce_network(network, (1, 16, 24)).network
    for size in ((16, 24), (32, 16)):
        x = torch.randn(2, 1, *size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(reduced(x), network(x), rtol=1e-12, atol=1e-12)
