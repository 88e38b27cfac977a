"""Building blocks shared by every network; torch only."""

from .activation import ActivationKind, LeakyReLU, PReLU, ReLU
from .blocks import BlockKind, DenseBlock, PlainBlock, ResidualBlock
from .conv import ConvKind, GroupedConv, SeparableConv, StandardConv, pointwise
from .factory import LayerFactory
from .norm import BatchNorm, InstanceNorm, NoNorm, NormKind
from .widths import WidthSchedule

__all__ = [
    "ActivationKind",
    "BatchNorm",
    "BlockKind",
    "ConvKind",
    "DenseBlock",
    "GroupedConv",
    "InstanceNorm",
    "LayerFactory",
    "LeakyReLU",
    "NoNorm",
    "NormKind",
    "PReLU",
    "PlainBlock",
    "ReLU",
    "ResidualBlock",
    "SeparableConv",
    "StandardConv",
    "WidthSchedule",
    "pointwise",
]
