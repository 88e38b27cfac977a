"""U-Net without transposed convolutions, whose convolutions may be grouped: Lighter U-Net."""

from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import ConvKind, LayerFactory, WidthSchedule
from lightning_pocket.layers.nd import max_pool_class, upsample_mode

from .base import Network
from .pyramid import Pyramid


class BilinearUNet(Network):
    """U-Net with bilinear upsampling, for U-Net, Light U-Net and Lighter U-Net @C.

    As in "Lightweight U-Net for Lesion Segmentation in Ultrasound Images", Table 2, whose ten counts of parameters it
    has for three channels, ``binary_head`` and 64 channels at full resolution. Two units per level; the coarsest level
    is as wide as the one above it; features are upsampled bilinearly with aligned corners and concatenated behind the
    skip; the second unit of a decoder level changes to the width of the level above.

    ============  =====================  =====================
    network       ``layers.conv``        ``second_conv``
    ============  =====================  =====================
    U-Net         ``StandardConv``       ``None``
    Light U-Net   ``StandardConv``       ``GroupedConv(1)``
    Lighter @C    ``GroupedConv(C)``     ``None``
    ============  =====================  =====================

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output, one per class.
        spatial_dims: 2 for images, 3 for volumes (trilinear upsampling).
        depth: Number of resolutions below the finest.
        widths: Channels at each depth, the coarsest excepted.
        layers: What the units are made of.
        second_conv: Kind of convolution of the second unit of each level; ``None`` is that of ``layers``.
        strides: Downsampling factors, ``depth`` lists of one integer per axis; ``None`` is 2 everywhere.
        kernel_sizes: Kernels of the units, ``depth + 1`` lists of one odd integer per axis; ``None`` is 3 everywhere.
        bottleneck_dropout: Probability that a feature of the coarsest level is zeroed during training, in [0, 1). The
            authors' code has 0.5, the paper none.
        deep_supervision: Number of extra heads, on the decoder levels next to the finest; less than ``depth``.
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept: less memory, more time, the same gradients.
        binary_head: Whether one channel, a sigmoid, makes the logits of both classes; for two classes.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    encoder_names: ClassVar[tuple[str, ...]] = ("encoder",)

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        depth: int = 4,
        widths: WidthSchedule = WidthSchedule(base=64),
        layers: LayerFactory = LayerFactory(),
        second_conv: ConvKind | None = None,
        strides: list[list[int]] | None = None,
        kernel_sizes: list[list[int]] | None = None,
        bottleneck_dropout: float = 0.0,
        deep_supervision: int = 0,
        checkpoint_levels: int = 0,
        binary_head: bool = False,
    ) -> None:
        pyramid = Pyramid.build(depth, spatial_dims, strides, kernel_sizes)
        checkpointed = pyramid.checkpointed(checkpoint_levels)
        super().__init__(in_channels, out_channels, spatial_dims, pyramid.divisor, checkpointed, binary_head)
        if not 0 <= bottleneck_dropout < 1:
            raise PocketError(
                f"network.bottleneck_dropout: found {bottleneck_dropout}, expected a probability in [0, 1)."
            )
        second = layers if second_conv is None else replace(layers, conv=second_conv)
        width = [*(widths(level) for level in range(depth)), widths(depth - 1)]
        decoded = [width[max(level - 1, 0)] for level in range(depth)]

        def double(before: int, middle: int, after: int, level: int) -> nn.Module:
            kernel = pyramid.kernel_sizes[level]
            return nn.Sequential(
                layers.unit(before, middle, spatial_dims=spatial_dims, kernel_size=kernel),
                second.unit(middle, after, spatial_dims=spatial_dims, kernel_size=kernel),
            )

        # All lists run from fine to coarse: index i belongs to level i.
        channels = [in_channels, *width]
        self.encoder = nn.ModuleList(
            double(channels[level], width[level], width[level], level) for level in range(depth + 1)
        )
        self.downsample = nn.ModuleList(max_pool_class(spatial_dims)(stride) for stride in pyramid.strides)
        self.bottleneck_dropout = nn.Dropout(bottleneck_dropout)
        self.upsample = nn.ModuleList(
            nn.Upsample(scale_factor=stride, mode=upsample_mode(spatial_dims), align_corners=True)
            for stride in pyramid.strides
        )
        # Below each decoder level there are as many channels as in its skip: the middle is half of both.
        self.decoder = nn.ModuleList(
            double(2 * width[level], width[level], decoded[level], level) for level in range(depth)
        )
        self.heads = nn.ModuleList(self.make_head(decoded[level]) for level in pyramid.heads(deep_supervision))
        layers.initialize(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the decoder's features, from fine to coarse.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Returns:
            One ``(B, C, *S / strides)`` tensor per decoder level; ``C`` is the width of the level above it, and that of
            level 0 at level 0.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        self.check_input(x)
        skips: list[Tensor] = []
        h = self.at_level(0, self.encoder[0], [self.encoder[0]], x)
        for level, (downsample, encode) in enumerate(zip(self.downsample, self.encoder[1:], strict=True), start=1):
            skips.append(h)
            h = self.at_level(level, nn.Sequential(downsample, encode), [downsample, encode], h)
        h = self.bottleneck_dropout(h)
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


def _up(upsample: nn.Module, decode: nn.Module, h: Tensor, skip: Tensor) -> Tensor:
    return decode(torch.cat([skip, upsample(h)], dim=1))
