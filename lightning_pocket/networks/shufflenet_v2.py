"""ShuffleNetV2."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, StandardConv
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class, max_pool_class

from .asymmetric import to_asymmetric
from .pretrained import PretrainedClassifier

#: Blocks of each stage (Ma et al., ECCV 2018, Table 5).
_REPEATS = (4, 8, 4)


class ShuffleNetV2(PretrainedClassifier):
    """Blocks that work on half of the channels and shuffle both halves (Ma et al., ECCV 2018).

    Names are those of torchvision's ``shufflenet_v2_x0_5`` and the like. The paper's widths are

    =====  ==========================  ======================================
    width  ``channels``                parameters for RGB images, 1000 classes
    =====  ==========================  ======================================
    0.5    24, 48, 96, 192, 1024       1,366,792
    1.0    24, 116, 232, 464, 1024     2,278,604
    1.5    24, 176, 352, 704, 1024     3,503,624
    2.0    24, 244, 488, 976, 2048     7,393,996
    =====  ==========================  ======================================

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        channels: Channels of the first convolution, of the three stages, and of the last convolution; null is 0.5.
        stem: Whether the first convolution and a max pooling halve the resolution (``imagenet``), or the convolution
            keeps it and there is no pooling (``cifar``).
        layers: Kinds of the first convolution, of the norms and activations.
        weights: File with ImageNet weights in torchvision's layout.
        asymmetric: Whether convolutions are asymmetric blocks (ACNet), see :func:`.asymmetric.to_asymmetric`.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 32; of 8 in the CIFAR form.

    Raises:
        PocketError: If there are not five numbers of channels, or a stage has an odd one.
    """

    first_weight = "conv1.0.weight"
    last_layer = "fc"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        channels: list[int] | None = None,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        layers: LayerFactory = LayerFactory(conv=StandardConv(bias=False)),
        weights: str | None = None,
        asymmetric: bool = False,
    ) -> None:
        widths = [24, 48, 96, 192, 1024] if channels is None else channels
        if len(widths) != 5 or min(widths) < 1 or any(width % 2 for width in widths[1:4]):
            raise PocketError(
                f"network.channels: found {widths}, expected 5 numbers above 0: first convolution, three stages, which "
                "are halved and so are even, and last convolution."
            )
        large = stem == "imagenet"
        super().__init__(in_channels, out_channels, spatial_dims, ((32 if large else 8),) * spatial_dims)
        self.weights = weights
        conv = layers.conv(in_channels, widths[0], spatial_dims=spatial_dims, stride=2 if large else 1)
        self.conv1 = _unit(conv, widths[0], layers, spatial_dims)
        self.maxpool: nn.Module = max_pool_class(spatial_dims)(3, 2, 1) if large else nn.Identity()
        before, stages = widths[0], []
        for repeats, after in zip(_REPEATS, widths[1:4], strict=True):
            blocks = [ShuffleBlock(before, after, 2, layers, spatial_dims)]
            blocks += [ShuffleBlock(after, after, 1, layers, spatial_dims) for _ in range(repeats - 1)]
            stages.append(nn.Sequential(*blocks))
            before = after
        self.stage2, self.stage3, self.stage4 = stages
        last = conv_class(spatial_dims)(before, widths[4], 1, bias=False)
        self.conv5 = _unit(last, widths[4], layers, spatial_dims)
        self.pool = global_mean_pool_class(spatial_dims)(1)
        self.fc = nn.Linear(widths[4], out_channels)
        layers.initialize(self)
        if asymmetric:
            to_asymmetric(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        h = self.stage2(self.maxpool(self.conv1(x)))
        h = self.conv5(self.stage4(self.stage3(h)))
        return self.fc(self.pool(h).flatten(1))


class ShuffleBlock(nn.Module):
    """A pointwise, a depthwise and a pointwise convolution on half of the channels, which are then interleaved.

    With a stride both halves come from the whole input, one of them through a depthwise and a pointwise convolution.

    Args:
        before: Channels of the input.
        after: Channels of the output, an even number; those of the input where the stride is 1.
        stride: Stride of the depthwise convolutions.
        layers: Kinds of the norms and activations.
        spatial_dims: 2 or 3.
    """

    def __init__(self, before: int, after: int, stride: int, layers: LayerFactory, spatial_dims: int) -> None:
        super().__init__()
        half = after // 2
        conv = conv_class(spatial_dims)

        def pointwise(channels: int) -> nn.Sequential:
            return _unit(conv(channels, half, 1, bias=False), half, layers, spatial_dims)

        def depthwise(channels: int) -> list[nn.Module]:
            made = conv(channels, channels, 3, stride, 1, groups=channels, bias=False)
            return [made, layers.norm(channels, spatial_dims=spatial_dims)]

        self.branch1 = nn.Sequential(*depthwise(before), *pointwise(before)) if stride > 1 else nn.Sequential()
        first = pointwise(before if stride > 1 else half)
        self.branch2 = nn.Sequential(*first, *depthwise(half), *pointwise(half))
        self.divides = stride == 1

    @override
    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1) if self.divides else (x, x)
        return torch.channel_shuffle(torch.cat([self.branch1(left), self.branch2(right)], dim=1), 2)


def _unit(conv: nn.Module, channels: int, layers: LayerFactory, spatial_dims: int) -> nn.Sequential:
    return nn.Sequential(conv, layers.norm(channels, spatial_dims=spatial_dims), layers.activation(channels))
