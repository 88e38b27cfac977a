"""The layers that every network is made of."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from lightning_pocket.errors import PocketError

from .activation import ActivationKind, ReLU
from .conv import ConvKind, StandardConv
from .initialize import INITIALIZERS, InitializerName
from .nd import dropout_class
from .norm import BatchNorm, NormKind


@dataclass(frozen=True)
class LayerFactory:
    """Makes convolution -> normalization -> activation -> dropout units.

    Args:
        conv: Kind of convolution.
        norm: Kind of normalization.
        activation: Kind of activation.
        dropout: Probability that a channel is zeroed during training, in [0, 1); 0 adds no layer.
        initializer: ``torch`` keeps torch's defaults; ``glorot_uniform`` starts as Keras does,
            ``he_normal`` keeps the variance through layers with ReLU.

    Raises:
        PocketError: If ``dropout`` is out of range.
    """

    conv: ConvKind = field(default_factory=StandardConv)
    norm: NormKind = field(default_factory=BatchNorm)
    activation: ActivationKind = field(default_factory=ReLU)
    dropout: float = 0.0
    initializer: InitializerName = "torch"

    def __post_init__(self) -> None:
        if not 0 <= self.dropout < 1:
            raise PocketError(f"layers.dropout: found {self.dropout}, expected a probability in [0, 1).")

    def unit(
        self,
        in_channels: int,
        out_channels: int,
        *,
        spatial_dims: int,
        kernel_size: int | Sequence[int] = 3,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> nn.Sequential:
        """Return a unit from ``(B, in_channels, *S)`` to ``(B, out_channels, *S / stride)``.

        Args:
            in_channels: Channels of the input.
            out_channels: Channels of the output.
            spatial_dims: Number of spatial axes, 2 or 3.
            kernel_size: Odd size of the kernel in voxels, one number or one per axis.
            stride: Voxels between two outputs, one number or one per axis.
            dilation: Voxels between two taps of the kernel, one number or one per axis.

        Raises:
            PocketError: If the convolution cannot be made.
        """
        geometry = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
        layers = [
            self.conv(in_channels, out_channels, spatial_dims=spatial_dims, **geometry),
            self.norm(out_channels, spatial_dims=spatial_dims),
            self.activation(out_channels),
        ]
        if self.dropout:
            layers.append(dropout_class(spatial_dims)(self.dropout))
        return nn.Sequential(*layers)

    def initialize(self, module: nn.Module) -> None:
        """Start the weights of ``module`` in place; a network calls it once, when all its layers are made."""
        INITIALIZERS[self.initializer](module)
