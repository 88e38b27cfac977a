"""VGG-16."""

from itertools import pairwise

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, WidthSchedule
from lightning_pocket.layers.nd import max_pool_class

from .base import Backbone

#: Convolutions of each stage (Simonyan and Zisserman, 2015, Table 1, column D).
_UNITS = (2, 2, 3, 3, 3)


class VGG16(Backbone):
    """The 13 convolutions of VGG-16, max pooling after each of five stages.

    The last stage is as wide as the one before it. The layers are one flat list, ``features``, so that names are those
    of torchvision's ``vgg16``, and of ``vgg16_bn`` where ``layers.norm`` is a batch norm.

    Args:
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        widths: Channels of the first four stages; 64, doubling each time, in the paper.
        layers: What the units are made of; ``NoNorm`` in the paper.

    Shape:
        ``(B, in_channels, *S)`` to five tensors ``(B, channels[i], *S / 2**(i + 1))``.
    """

    first_weight = "features.0.weight"
    unused = ("classifier.",)

    def __init__(self, in_channels: int, spatial_dims: int, widths: WidthSchedule, layers: LayerFactory) -> None:
        super().__init__()
        last = len(_UNITS) - 1
        self.channels = tuple(widths(min(stage, last - 1)) for stage in range(last + 1))
        found: list[nn.Module] = []
        ends = [0]
        before = in_channels
        for units, after in zip(_UNITS, self.channels, strict=True):
            for _ in range(units):
                unit = layers.unit(before, after, spatial_dims=spatial_dims)
                found.extend(layer for layer in unit if not isinstance(layer, nn.Identity))
                before = after
            found.append(max_pool_class(spatial_dims)(2))
            ends.append(len(found))
        self.features = nn.Sequential(*found)
        self._slices = [slice(*both) for both in pairwise(ends)]

    @property
    def stages(self) -> list[nn.Module]:
        """The layers of each stage, its pooling the last; they are those of ``features``."""
        return [self.features[part] for part in self._slices]

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return tuple(outputs)
