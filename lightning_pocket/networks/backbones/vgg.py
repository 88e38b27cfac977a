"""VGG-16."""

from itertools import accumulate, chain, pairwise

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, WidthSchedule
from lightning_pocket.layers.nd import max_pool_class

from .base import Backbone

#: Convolutions of each stage (Simonyan and Zisserman, 2015, Table 1, columns D and E), by the number of all layers.
UNITS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
_STAGES = 5


def stage_widths(widths: WidthSchedule) -> tuple[int, ...]:
    """Return the channels of the five stages; the last is as wide as the one before it."""
    return tuple(widths(min(stage, _STAGES - 2)) for stage in range(_STAGES))


def make_stages(
    in_channels: int, channels: tuple[int, ...], units: tuple[int, ...], layers: LayerFactory, spatial_dims: int
) -> list[list[nn.Module]]:
    """Return the layers of each stage, max pooling the last; layers that do nothing are left out.

    Args:
        in_channels: Channels of the image.
        channels: Those of each stage.
        units: Convolutions of each stage.
        layers: What the units are made of.
        spatial_dims: 2 or 3.
    """
    stages: list[list[nn.Module]] = []
    before = in_channels
    for number, after in zip(units, channels, strict=True):
        found: list[nn.Module] = []
        for _ in range(number):
            unit = layers.unit(before, after, spatial_dims=spatial_dims)
            found.extend(layer for layer in unit if not isinstance(layer, nn.Identity))
            before = after
        stages.append([*found, max_pool_class(spatial_dims)(2)])
    return stages


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
        self.channels = stage_widths(widths)
        stages = make_stages(in_channels, self.channels, UNITS[16], layers, spatial_dims)
        ends = [0, *accumulate(map(len, stages))]
        self.features = nn.Sequential(*chain(*stages))
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
