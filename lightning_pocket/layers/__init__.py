"""Building blocks shared by every network; torch only."""

from .activation import ActivationKind, LeakyReLU, PReLU, ReLU
from .blocks import BlockKind, DenseBlock, PlainBlock, ResidualBlock
from .conv import ConvKind, GroupedConv, SeparableConv, StandardConv, pointwise
from .expand import (
    as_plain,
    contract,
    contract_for_use,
    contracted_weight,
    deployed_parameters,
    expand,
    is_expanded,
    last_factor,
)
from .expanded import FACTORS, Expanded, ExpandedConv, ExpandedLinear
from .expansion import Expansion
from .factory import LayerFactory
from .norm import BatchNorm, InstanceNorm, NoNorm, NormKind
from .widths import WidthSchedule

__all__ = [
    "FACTORS",
    "ActivationKind",
    "BatchNorm",
    "BlockKind",
    "ConvKind",
    "DenseBlock",
    "Expanded",
    "ExpandedConv",
    "ExpandedLinear",
    "Expansion",
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
    "as_plain",
    "contract",
    "contract_for_use",
    "contracted_weight",
    "deployed_parameters",
    "expand",
    "is_expanded",
    "last_factor",
    "pointwise",
]
