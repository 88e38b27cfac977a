"""U-Net with plain, residual or dense blocks."""

from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import BlockKind, LayerFactory, PlainBlock, WidthSchedule
from lightning_pocket.layers.nd import conv_class, conv_transpose_class, max_pool_class

from .base import Network
from .pyramid import Pyramid


class UNet(Network):
    """Encoder and decoder with one skip connection per resolution.

    As in PocketNet (Celaya et al., IEEE TMI 2023, Table I): a block per level; transposed convolutions with bias and
    nothing after; skips are concatenated behind the upsampled features; a pointwise head. The paper's Algorithm 1 adds
    the skips, but its printed parameter counts and its code concatenate.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output, one per class.
        spatial_dims: 2 for slices, 3 for volumes.
        depth: Number of resolutions below the finest.
        widths: Channels at each depth.
        layers: What the units are made of.
        block: How the units at one resolution are wired.
        downsample: ``max_pool``, or ``strided_conv``: a convolution with bias whose kernel is its stride.
        strides: Downsampling factors, ``depth`` lists of one integer per axis; ``None`` is 2 everywhere. For thin
            volumes, say ``[1, 2, 2]`` first.
        kernel_sizes: Kernels of the units, ``depth + 1`` lists of one odd integer per axis; ``None`` is 3 everywhere.
        deep_supervision: Number of extra heads, on the decoder levels next to the finest; less than ``depth``.
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept: less memory, more time, the same gradients.
        binary_head: Whether one channel, a sigmoid, makes the logits of both classes; for two classes.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    encoder_names: ClassVar[tuple[str, ...]] = ("encoder", "downsample")

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        depth: int = 5,
        widths: WidthSchedule = WidthSchedule(),
        layers: LayerFactory = LayerFactory(),
        block: BlockKind = PlainBlock(),
        downsample: Literal["max_pool", "strided_conv"] = "max_pool",
        strides: list[list[int]] | None = None,
        kernel_sizes: list[list[int]] | None = None,
        deep_supervision: int = 0,
        checkpoint_levels: int = 0,
        binary_head: bool = False,
    ) -> None:
        pyramid = Pyramid.build(depth, spatial_dims, strides, kernel_sizes)
        checkpointed = pyramid.checkpointed(checkpoint_levels)
        super().__init__(in_channels, out_channels, spatial_dims, pyramid.divisor, checkpointed, binary_head)
        width = [widths(level) for level in range(depth + 1)]

        def make_block(channels: int, level: int) -> nn.Module:
            kernel = pyramid.kernel_sizes[level]
            return block(channels, width[level], layers, spatial_dims=spatial_dims, kernel_size=kernel)

        def make_downsample(level: int) -> nn.Module:
            stride = pyramid.strides[level]
            if downsample == "max_pool":
                return max_pool_class(spatial_dims)(stride)
            return conv_class(spatial_dims)(width[level], width[level], stride, stride)

        def make_upsample(level: int) -> nn.Module:
            stride = pyramid.strides[level]
            return conv_transpose_class(spatial_dims)(width[level + 1], width[level], stride, stride)

        # All lists run from fine to coarse: index i belongs to level i.
        self.encoder = nn.ModuleList(
            make_block(in_channels if level == 0 else width[level - 1], level) for level in range(depth + 1)
        )
        self.downsample = nn.ModuleList(make_downsample(level) for level in range(depth))
        self.upsample = nn.ModuleList(make_upsample(level) for level in range(depth))
        self.decoder = nn.ModuleList(make_block(2 * width[level], level) for level in range(depth))
        self.heads = nn.ModuleList(self.make_head(width[level]) for level in pyramid.heads(deep_supervision))
        layers.initialize(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the decoder's features, from fine to coarse.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Returns:
            One ``(B, widths(i), *S / strides)`` tensor per decoder level ``i``.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        self.check_input(x)
        skips: list[Tensor] = []
        h = self.at_level(0, self.encoder[0], [self.encoder[0]], x)
        for level, (downsample, encode) in enumerate(zip(self.downsample, self.encoder[1:], strict=True), start=1):
            skips.append(h)
            h = self.at_level(level, partial(_down, downsample, encode), [downsample, encode], h)
        decoded: list[Tensor] = []
        for level in reversed(range(len(self.decoder))):
            upsample, decode = self.upsample[level], self.decoder[level]
            h = self.at_level(level, partial(_up, upsample, decode), [upsample, decode], h, skips.pop())
            decoded.append(h)
        return decoded[::-1]

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.heads[0](self.features(x)[0])

    @override
    def outputs(self, x: Tensor) -> list[Tensor]:
        return [head(h) for head, h in zip(self.heads, self.features(x), strict=False)]


def _down(downsample: nn.Module, encode: nn.Module, h: Tensor) -> Tensor:
    return encode(downsample(h))


def _up(upsample: nn.Module, decode: nn.Module, h: Tensor, skip: Tensor) -> Tensor:
    return decode(torch.cat([upsample(h), skip], dim=1))
