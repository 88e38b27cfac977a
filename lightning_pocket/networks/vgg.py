"""VGG-16 and VGG-19 as classifiers."""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, WidthSchedule
from lightning_pocket.layers.nd import global_mean_pool_class

from .backbones.vgg import UNITS, make_stages, stage_widths
from .pretrained import PretrainedClassifier

_GRID = 7


class VGG(PretrainedClassifier):
    """Five stages of 3 x 3 convolutions with max pooling, and three linear layers (Simonyan and Zisserman, 2015).

    Names are those of torchvision's ``vgg16`` and ``vgg19``, and of ``vgg16_bn`` and ``vgg19_bn`` with batch norms.
    138,357,544 and 143,667,240 parameters for RGB images of 1000 classes without norms. Features of images of other
    sizes than 224 pixels are averaged to 7 x 7.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        num_layers: Layers with weights: 13 or 16 convolutions, and three linear ones.
        widths: Channels of the first four stages; the fifth is as wide as the fourth.
        layers: What the units are made of; ``NoNorm`` in the paper.
        hidden: Features of the first two linear layers.
        dropout: Probability that one of these is zeroed during training, in [0, 1).
        weights: File with ImageNet weights in torchvision's layout.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 32.

    Raises:
        PocketError: If the settings contradict each other.
    """

    first_weight = "features.0.weight"
    last_layer = "classifier.6"

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        num_layers: Literal[16, 19] = 16,
        widths: WidthSchedule = WidthSchedule(base=64),
        layers: LayerFactory = LayerFactory(),
        hidden: int = 4096,
        dropout: float = 0.5,
        weights: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, spatial_dims, (32,) * spatial_dims)
        self.weights = weights
        channels = stage_widths(widths)
        stages = make_stages(in_channels, channels, UNITS[num_layers], layers, spatial_dims)
        self.features = nn.Sequential(*chain(*stages))
        grid = (_GRID,) * spatial_dims
        self.avgpool = global_mean_pool_class(spatial_dims)(grid)
        self.classifier = nn.Sequential(
            nn.Linear(channels[-1] * prod(grid), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_channels),
        )
        layers.initialize(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
