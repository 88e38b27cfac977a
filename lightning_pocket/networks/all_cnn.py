"""All-CNN-C: a classifier without pooling and linear layers."""

from __future__ import annotations

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, NoNorm, pointwise
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class

from .backbones.base import scaled
from .base import Classifier

#: Channels and stride of the six 3 x 3 convolutions that keep the border (Springenberg et al., 2015, Table 1).
_CONVS = ((96, 1), (96, 1), (96, 2), (192, 1), (192, 1), (192, 2))
_LAST = 192


class AllCNN(Classifier):
    """Seven convolutions of 3 x 3 and two of 1 x 1; the mean over all positions tells the class.

    All-CNN-C of "Striving for Simplicity" (Springenberg et al., ICLR workshop 2015): strides of 2 instead of pooling,
    and no padding in the seventh convolution. 1,369,738 parameters for RGB images of 10 classes. The paper's table has
    a ReLU behind the last convolution too, which would cut logits at 0.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        width: Factor on all channels.
        layers: What the padded units are made of; the paper has no norm.
        input_dropout: Probability that a number of the image is zeroed during training, in [0, 1).
        dropout: The same of the features behind each stride.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 16.

    Raises:
        PocketError: If the settings contradict each other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        width: float = 1.0,
        layers: LayerFactory = LayerFactory(norm=NoNorm()),
        input_dropout: float = 0.2,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(in_channels, out_channels, spatial_dims, (16,) * spatial_dims)
        units: list[nn.Module] = [nn.Dropout(input_dropout)]
        before = in_channels
        for channels, stride in _CONVS:
            after = scaled(channels, width)
            units.append(layers.unit(before, after, spatial_dims=spatial_dims, stride=stride))
            if stride > 1:
                units.append(nn.Dropout(dropout))
            before = after
        last = scaled(_LAST, width)
        self.features = nn.Sequential(*units)
        self.unpadded = nn.Sequential(conv_class(spatial_dims)(before, last, 3), layers.activation(last))
        self.mix = nn.Sequential(pointwise(last, last, spatial_dims), layers.activation(last))
        self.head = pointwise(last, out_channels, spatial_dims)
        self.pool = global_mean_pool_class(spatial_dims)(1)
        layers.initialize(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        h = self.mix(self.unpadded(self.features(x)))
        return self.pool(self.head(h)).flatten(1)
