"""MobileNetV2."""

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory
from lightning_pocket.layers.nd import conv_class

from .base import Backbone, atrous

#: Expansion, channels, blocks and stride of each stage (Sandler et al., CVPR 2018, Table 2).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM = 32
#: The features that go to the decoder are those before this entry of ``features``.
_LOW_END = 4
_MULTIPLE = 8


class MobileNetV2(Backbone):
    """MobileNetV2 up to its last block; names are those of torchvision's ``mobilenet_v2``.

    Torchvision's ``features.18``, the convolution to 1280 channels, belongs to the classifier. Kernels are depthwise by
    construction and activations are ReLU6; only the first convolution and the norms are those of ``layers``.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        output_stride: Pixels of the image that make one pixel of the last features: 8 or 16.
        layers: Kinds of the first convolution and of the norms.
        width: Factor on all channels, which are then rounded to multiples of 8, not below 90 %.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, 24 * width, *S / 4)`` and ``(B, 320 * width, *S / output_stride)``.
    """

    first_weight = "features.0.0.weight"
    unused = ("classifier.", "features.18.")

    def __init__(
        self, in_channels: int, spatial_dims: int, output_stride: int, layers: LayerFactory, width: float = 1.0
    ) -> None:
        super().__init__()
        before = rounded(STEM * width)
        entries: list[nn.Module] = [
            nn.Sequential(
                layers.conv(in_channels, before, spatial_dims=spatial_dims, stride=2),
                layers.norm(before, spatial_dims=spatial_dims),
                nn.ReLU6(),
            )
        ]
        geometry = atrous([2, *(stage[3] for stage in STAGES)], output_stride)[1:]
        for (expansion, channels, blocks, nominal), (stride, first, others) in zip(STAGES, geometry, strict=True):
            after = rounded(channels * width)
            for block in range(blocks):
                # Where dilation replaces a stride, the wiring stays that of the stride.
                adds = before == after and (block > 0 or nominal == 1)
                step, dilation = (stride, first) if block == 0 else (1, others)
                widths = (before, expansion * before, after)
                entries.append(InvertedResidual(widths, layers, spatial_dims, step, dilation, adds=adds))
                before = after
        self.features = nn.Sequential(*entries)
        self.channels = (rounded(STAGES[1][1] * width), before)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low = self.features[:_LOW_END](x)
        return low, self.features[_LOW_END:](low)


class InvertedResidual(nn.Module):
    """1 x 1 convolution to more channels, a depthwise one, and a linear 1 x 1 back; the input is added where it fits.

    Args:
        widths: Channels of the input, inside, and of the output.
        layers: Kind of the norms.
        spatial_dims: 2 or 3.
        stride: Stride of the depthwise convolution.
        dilation: Dilation of the depthwise convolution.
        adds: Whether the input is added.
    """

    def __init__(
        self,
        widths: tuple[int, int, int],
        layers: LayerFactory,
        spatial_dims: int,
        stride: int,
        dilation: int,
        *,
        adds: bool,
    ) -> None:
        super().__init__()
        before, inner, after = widths
        conv = conv_class(spatial_dims)

        def unit(made: nn.Module) -> nn.Module:
            return nn.Sequential(made, layers.norm(inner, spatial_dims=spatial_dims), nn.ReLU6())

        expand = [unit(conv(before, inner, 1, bias=False))] if inner != before else []
        self.conv = nn.Sequential(
            *expand,
            unit(conv(inner, inner, 3, stride, dilation, dilation, groups=inner, bias=False)),
            conv(inner, after, 1, bias=False),
            layers.norm(after, spatial_dims=spatial_dims),
        )
        self.adds = adds

    @override
    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        return x + h if self.adds else h


def rounded(channels: float) -> int:
    """Return the nearest multiple of 8 that is not below 90 % of ``channels``, as published weights expect."""
    nearest = max(_MULTIPLE, int(channels + _MULTIPLE / 2) // _MULTIPLE * _MULTIPLE)
    return nearest + _MULTIPLE if nearest < 0.9 * channels else nearest
