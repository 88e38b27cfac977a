"""The encoder of a U-Net that tells the class of an image."""

from typing import ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import BlockKind, LayerFactory, PlainBlock, WidthSchedule
from lightning_pocket.layers.nd import conv_class, max_pool_class

from .base import Classifier
from .pyramid import Pyramid


class EncoderClassifier(Classifier):
    """Encoder of a U-Net, one number per channel of its coarsest level, and a linear layer to the classes.

    As in PocketNet (Celaya et al., IEEE TMI 2023, Table II): a block per level, max pooling in between, global max
    pooling at the end. The table's parameters (1.2 and 0.02 million) are those of 16 channels at full resolution, 5
    levels and no norm; the paper's text says 32 channels.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        depth: Number of resolutions below the finest.
        widths: Channels at each depth.
        layers: What the units are made of.
        block: How the units at one resolution are wired.
        downsample: ``max_pool``, or ``strided_conv``: a convolution with bias whose kernel is its stride.
        pool: Whether the ``max`` or the ``mean`` of a channel's features tells the class.
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept: less memory, more time, the same gradients.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    encoder_names: ClassVar[tuple[str, ...]] = ("encoder", "downsample")

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        depth: int = 4,
        widths: WidthSchedule = WidthSchedule(base=16),
        layers: LayerFactory = LayerFactory(),
        block: BlockKind = PlainBlock(),
        downsample: Literal["max_pool", "strided_conv"] = "max_pool",
        pool: Literal["max", "mean"] = "max",
        checkpoint_levels: int = 0,
    ) -> None:
        pyramid = Pyramid.build(depth, spatial_dims)
        checkpointed = pyramid.checkpointed(checkpoint_levels)
        super().__init__(in_channels, out_channels, spatial_dims, pyramid.divisor, checkpointed)
        width = [widths(level) for level in range(depth + 1)]

        def make_downsample(level: int) -> nn.Module:
            stride = pyramid.strides[level]
            if downsample == "max_pool":
                return max_pool_class(spatial_dims)(stride)
            return conv_class(spatial_dims)(width[level], width[level], stride, stride)

        # All lists run from fine to coarse: index i belongs to level i.
        channels = [in_channels, *width]
        self.encoder = nn.ModuleList(
            block(channels[level], width[level], layers, spatial_dims=spatial_dims) for level in range(depth + 1)
        )
        self.downsample = nn.ModuleList(make_downsample(level) for level in range(depth))
        self.pool = pool
        self.head = nn.Linear(width[-1], out_channels)
        layers.initialize(self)

    def features(self, x: Tensor) -> Tensor:
        """Return the numbers that the linear layer sees.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Returns:
            ``(B, widths(depth))``: the largest or mean value of each channel of the coarsest level.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        self.check_input(x)
        h = self.at_level(0, self.encoder[0], [self.encoder[0]], x)
        for level, (downsample, encode) in enumerate(zip(self.downsample, self.encoder[1:], strict=True), start=1):
            h = self.at_level(level, nn.Sequential(downsample, encode), [downsample, encode], h)
        pooled: Tensor = h.flatten(2).amax(dim=2) if self.pool == "max" else h.flatten(2).mean(dim=2)
        return pooled

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))
