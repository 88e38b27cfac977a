"""Fully convolutional networks: FCN-32s, FCN-16s and FCN-8s."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, NoNorm, NormKind, WidthSchedule
from lightning_pocket.layers.nd import conv_transpose_class

from .backbones import VGG16, load_backbone
from .base import Network
from .pyramid import Pyramid


class FCN(Network):
    """Features of VGG-16, upsampled by five transposed convolutions, with skips that are added.

    The baseline of "Lightweight U-Net for Lesion Segmentation in Ultrasound Images", Table 1 (FCN: Long et al., CVPR
    2015): behind each transposed convolution an activation and a norm; skips are added between the two. They have no
    parameters, so the three variants have the same 18.6 million.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output, one per class.
        spatial_dims: 2 for images, 3 for volumes.
        stride: Pixels of the image that make one pixel of the finest features used: 32 (no skip), 16 (one) or 8 (two).
        widths: Channels of the first four stages of VGG-16; its fifth is as wide as the fourth, and the decoder goes
            back from there to half the width of the first.
        layers: What the units of VGG-16 are made of, their norm excepted; its norm is that of the decoder.
        backbone_norm: Kind of norm in VGG-16, which has none.
        backbone_weights: File with ImageNet weights of VGG-16 in torchvision's layout, read when a training begins
            anew; see :func:`~lightning_pocket.networks.backbones.load_backbone`.
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept: less memory, more time, the same gradients.
        binary_head: Whether one channel, a sigmoid, makes the logits of both classes; for two classes.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S)``, each of ``S`` a multiple of 32.

    Raises:
        PocketError: If the settings contradict each other.
    """

    encoder_names: ClassVar[tuple[str, ...]] = ("backbone",)

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        stride: Literal[32, 16, 8] = 8,
        widths: WidthSchedule = WidthSchedule(base=64),
        layers: LayerFactory = LayerFactory(),
        backbone_norm: NormKind = NoNorm(),
        backbone_weights: str | None = None,
        checkpoint_levels: int = 0,
        binary_head: bool = False,
    ) -> None:
        pyramid = Pyramid.build(5, spatial_dims)
        checkpointed = pyramid.checkpointed(checkpoint_levels)
        super().__init__(in_channels, out_channels, spatial_dims, pyramid.divisor, checkpointed, binary_head)
        if stride not in (32, 16, 8):
            raise PocketError(f"network.stride: found {stride}, expected 32, 16 or 8.")
        self.stride = stride
        self.backbone_weights = backbone_weights
        self.backbone = VGG16(in_channels, spatial_dims, widths, replace(layers, norm=backbone_norm))
        width = [*reversed(self.backbone.channels), max(widths(0) // 2, 1)]
        # From coarse to fine, as they are called: the first gives a sixteenth of the resolution.
        self.upsample = nn.ModuleList(
            nn.Sequential(
                conv_transpose_class(spatial_dims)(before, after, 3, 2, padding=1, output_padding=1),
                layers.activation(after),
            )
            for before, after in pairwise(width)
        )
        self.norms = nn.ModuleList(layers.norm(after, spatial_dims=spatial_dims) for after in width[1:])
        self.head = self.make_head(width[-1])
        layers.initialize(self)

    @override
    def load_pretrained(self) -> str:
        return load_backbone(self.backbone, self.backbone_weights) if self.backbone_weights else ""

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees, ``(B, widths(0) // 2, *S)``.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        self.check_input(x)
        pooled: list[Tensor] = []
        h = x
        for level, stage in enumerate(self.backbone.stages):
            h = self.at_level(level, stage, [stage], h)
            pooled.append(h)
        # What is pooled four times has a sixteenth of the resolution, three times an eighth.
        skips = [pooled[3]] * (self.stride <= 16) + [pooled[2]] * (self.stride <= 8)
        for index, (upsample, norm) in enumerate(zip(self.upsample, self.norms, strict=True)):
            level = len(self.norms) - 1 - index
            skip = skips[index : index + 1]
            h = self.at_level(level, partial(_up, upsample, norm), [upsample, norm], h, *skip)
        return h

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def _up(upsample: nn.Module, norm: nn.Module, h: Tensor, *skip: Tensor) -> Tensor:
    h = upsample(h)
    for other in skip:
        h = h + other
    return norm(h)
