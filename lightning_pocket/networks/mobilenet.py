"""MobileNet (version 1)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, StandardConv
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class

from .asymmetric import to_asymmetric
from .backbones.base import scaled
from .base import Classifier

#: Channels and stride of each block behind the stem (Howard et al., MobileNets, 2017, Table 1).
_BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *(((512, 1),) * 5), (1024, 2), (1024, 1))
_STEM = 32


class MobileNet(Classifier):
    """A convolution, 13 blocks of a depthwise and a pointwise one, the mean of each channel, and a linear layer.

    4,231,976 parameters for RGB images of 1000 classes (Howard et al., 2017). The CIFAR form, whose first convolution
    keeps the resolution, has 3,217,226 for 10 classes. Layers are called ``stem.conv``, ``blocks.0.depthwise``,
    ``blocks.0.pointwise`` and ``fc``.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        stem: Whether the first convolution halves the resolution (``imagenet``) or keeps it (``cifar``).
        width: Factor on all channels.
        layers: Kinds of the first convolution, of the norms and activations.
        asymmetric: Whether convolutions are asymmetric blocks (ACNet), see :func:`.asymmetric.to_asymmetric`.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 32; of 16 in the CIFAR form.

    Raises:
        PocketError: If the settings contradict each other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        width: float = 1.0,
        layers: LayerFactory = LayerFactory(conv=StandardConv(bias=False)),
        asymmetric: bool = False,
    ) -> None:
        step = 2 if stem == "imagenet" else 1
        super().__init__(in_channels, out_channels, spatial_dims, (16 * step,) * spatial_dims)
        before = scaled(_STEM, width)
        unit = {
            "conv": layers.conv(in_channels, before, spatial_dims=spatial_dims, stride=step),
            "norm": layers.norm(before, spatial_dims=spatial_dims),
            "activation": layers.activation(before),
        }
        self.stem = nn.Sequential(OrderedDict(unit))
        blocks: list[nn.Module] = []
        for channels, stride in _BLOCKS:
            after = scaled(channels, width)
            blocks.append(_block(before, after, stride, layers, spatial_dims))
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.pool = global_mean_pool_class(spatial_dims)(1)
        self.fc = nn.Linear(before, out_channels)
        layers.initialize(self)
        if asymmetric:
            to_asymmetric(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))


def _block(before: int, after: int, stride: int, layers: LayerFactory, spatial_dims: int) -> nn.Module:
    conv = conv_class(spatial_dims)
    named = {
        "depthwise": conv(before, before, 3, stride, 1, groups=before, bias=False),
        "depthwise_norm": layers.norm(before, spatial_dims=spatial_dims),
        "depthwise_activation": layers.activation(before),
        "pointwise": conv(before, after, 1, bias=False),
        "pointwise_norm": layers.norm(after, spatial_dims=spatial_dims),
        "pointwise_activation": layers.activation(after),
    }
    return nn.Sequential(OrderedDict(named))
