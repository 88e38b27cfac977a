"""Xception, aligned and modified for DeepLab v3+."""

from itertools import pairwise

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory
from lightning_pocket.layers.nd import conv_class

from .base import Backbone, atrous, scaled

#: Channels of the separable convolutions of each block, and the block's stride (Chen et al., ECCV 2018, Figure 4).
_ENTRY = (((128, 128, 128), 2), ((256, 256, 256), 2), ((728, 728, 728), 2))
_MIDDLE = (((728, 728, 728), 1),) * 16
_EXIT = (((728, 1024, 1024), 2),)
_STEM = (32, 64)
_TAIL = (1536, 1536, 2048)


class Xception(Backbone):
    """The modified aligned Xception: 20 blocks of three separable convolutions, and three more at the end.

    Names are this class's own: published weights of Xception have other layers (no norm behind the depthwise
    convolution, 8 middle blocks instead of 16), so they do not fit. Convolutions after the first two are
    depthwise-separable by construction.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        output_stride: Pixels of the image that make one pixel of the last features: 8 or 16.
        layers: Kinds of the first two convolutions, of the norms and activations.
        width: Factor on all channels.

    Shape:
        ``(B, in_channels, *S)`` to ``(B, 128 * width, *S / 4)`` and ``(B, 2048 * width, *S / output_stride)``.
    """

    first_weight = "stem.0.0.weight"
    layout = "this program's Xception"

    def __init__(
        self, in_channels: int, spatial_dims: int, output_stride: int, layers: LayerFactory, width: float = 1.0
    ) -> None:
        super().__init__()
        first, before = (scaled(channels, width) for channels in _STEM)
        self.stem = nn.Sequential(
            layers.unit(in_channels, first, spatial_dims=spatial_dims, stride=2),
            layers.unit(first, before, spatial_dims=spatial_dims),
        )
        blocks = (*_ENTRY, *_MIDDLE, *_EXIT)
        geometry = atrous([2, *(stride for _, stride in blocks)], output_stride)[1:]
        made: list[nn.Module] = []
        for index, ((channels, _), (stride, dilation, _)) in enumerate(zip(blocks, geometry, strict=True)):
            widths = [before, *(scaled(c, width) for c in channels)]
            made.append(XceptionBlock(widths, layers, spatial_dims, stride, dilation, begins_active=index > 0))
            before = widths[-1]
        self.blocks = nn.ModuleList(made)
        low = scaled(_ENTRY[0][0][-1], width)
        self.activations = nn.ModuleList(layers.activation(channels) for channels in (low, before))
        tail: list[nn.Module] = []
        tail_dilation = geometry[-1][2]
        for wide in _TAIL:
            after = scaled(wide, width)
            tail += [_separable(before, after, layers, spatial_dims, 1, tail_dilation), layers.activation(after)]
            before = after
        self.tail = nn.Sequential(*tail)
        self.channels = (low, before)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low = self.activations[0](self.blocks[0](self.stem(x)))
        h = low
        for block in self.blocks[1:]:
            h = block(h)
        return low, self.tail(self.activations[1](h))


class XceptionBlock(nn.Module):
    """Three separable convolutions with norms, plus a shortcut; a stride is in the last one.

    Args:
        widths: Channels of the input and after each convolution.
        layers: Kinds of the norms and activations.
        spatial_dims: 2 or 3.
        stride: Stride of the last convolution.
        dilation: Dilation of all three.
        begins_active: Whether an activation comes first; the block behind the stem needs none.
    """

    def __init__(
        self,
        widths: list[int],
        layers: LayerFactory,
        spatial_dims: int,
        stride: int,
        dilation: int,
        *,
        begins_active: bool,
    ) -> None:
        super().__init__()
        units: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            if index or begins_active:
                units.append(layers.activation(before))
            step = stride if index == len(widths) - 2 else 1
            units.append(_separable(before, after, layers, spatial_dims, step, dilation))
        self.body = nn.Sequential(*units)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or widths[0] != widths[-1]:
            self.shortcut = nn.Sequential(
                conv_class(spatial_dims)(widths[0], widths[-1], 1, stride, bias=False),
                layers.norm(widths[-1], spatial_dims=spatial_dims),
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


def _separable(
    before: int, after: int, layers: LayerFactory, spatial_dims: int, stride: int, dilation: int
) -> nn.Module:
    """Return a depthwise 3 x 3 convolution and a pointwise one, a norm behind each."""
    conv = conv_class(spatial_dims)
    return nn.Sequential(
        conv(before, before, 3, stride, dilation, dilation, groups=before, bias=False),
        layers.norm(before, spatial_dims=spatial_dims),
        conv(before, after, 1, bias=False),
        layers.norm(after, spatial_dims=spatial_dims),
    )
