"""ResNet-101."""

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory
from lightning_pocket.layers.nd import conv_class, max_pool_class

from .base import Backbone, scaled

#: Bottlenecks of each stage, and the channels inside them (He et al., CVPR 2016, Table 1).
_BLOCKS = (3, 4, 23, 3)
_WIDTHS = (64, 128, 256, 512)
_EXPANSION = 4
#: Dilations of the last stage's three blocks, times that of the stage (DeepLab v3, Chen et al., 2017, section 3.3).
_MULTI_GRID = (1, 2, 4)


class ResNet101(Backbone):
    """ResNet-101 without its classifier; names are those of torchvision's ``resnet101``.

    At output stride 16 the last stage keeps the resolution and its blocks have dilations 2, 4, 8. At 8 the third stage
    keeps it too, with dilation 2, and those of the last are 4, 8, 16.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        output_stride: Pixels of the image that make one pixel of the last features: 8 or 16.
        layers: Kinds of the 3 x 3 convolutions, norms and activations.
        width: Factor on all channels.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, 256 * width, *S / 4)`` and ``(B, 2048 * width, *S / output_stride)``.
    """

    first_weight = "conv1.weight"
    unused = ("fc.",)

    def __init__(
        self, in_channels: int, spatial_dims: int, output_stride: int, layers: LayerFactory, width: float = 1.0
    ) -> None:
        super().__init__()
        widths = [scaled(channels, width) for channels in _WIDTHS]
        strides, dilations = ((1, 2, 2, 1), (1, 1, 1, 2)) if output_stride == 16 else ((1, 2, 1, 1), (1, 1, 2, 4))
        self.channels = (_EXPANSION * widths[0], _EXPANSION * widths[3])
        self.conv1 = layers.conv(in_channels, widths[0], spatial_dims=spatial_dims, kernel_size=7, stride=2)
        self.bn1 = layers.norm(widths[0], spatial_dims=spatial_dims)
        self.relu = layers.activation(widths[0])
        self.maxpool = max_pool_class(spatial_dims)(3, 2, 1)
        stages: list[nn.Module] = []
        before = widths[0]
        for stage, (blocks, inner) in enumerate(zip(_BLOCKS, widths, strict=True)):
            grid = _MULTI_GRID if stage == 3 else (1,) * blocks
            made = []
            for block, factor in enumerate(grid):
                stride = strides[stage] if block == 0 else 1
                made.append(
                    Bottleneck(
                        before,
                        inner,
                        layers,
                        spatial_dims=spatial_dims,
                        stride=stride,
                        dilation=factor * dilations[stage],
                    )
                )
                before = _EXPANSION * inner
            stages.append(nn.Sequential(*made))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        return low, self.layer4(self.layer3(self.layer2(low)))


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with norms, plus a shortcut; a stride is in the middle one.

    Args:
        in_channels: Channels of the input.
        inner: Channels inside; the output has four times as many.
        layers: Kinds of the 3 x 3 convolution, norms and activations.
        shape: ``spatial_dims``, ``stride`` and ``dilation``.
    """

    expansion = _EXPANSION

    def __init__(self, in_channels: int, inner: int, layers: LayerFactory, **shape: Any) -> None:
        super().__init__()
        spatial_dims, stride = shape["spatial_dims"], shape["stride"]
        outer = _EXPANSION * inner
        conv = conv_class(spatial_dims)
        self.conv1 = conv(in_channels, inner, 1, bias=False)
        self.bn1 = layers.norm(inner, spatial_dims=spatial_dims)
        self.relu1 = layers.activation(inner)
        self.conv2 = layers.conv(inner, inner, **shape)
        self.bn2 = layers.norm(inner, spatial_dims=spatial_dims)
        self.relu2 = layers.activation(inner)
        self.conv3 = conv(inner, outer, 1, bias=False)
        self.bn3 = layers.norm(outer, spatial_dims=spatial_dims)
        self.relu3 = layers.activation(outer)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != outer:
            self.downsample = nn.Sequential(
                conv(in_channels, outer, 1, stride, bias=False), layers.norm(outer, spatial_dims=spatial_dims)
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(self.conv1(x)))
        h = self.relu2(self.bn2(self.conv2(h)))
        return self.relu3(self.bn3(self.conv3(h)) + self.downsample(x))
