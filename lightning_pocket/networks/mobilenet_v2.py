"""MobileNetV2 as a classifier."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, StandardConv
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class

from .asymmetric import to_asymmetric
from .backbones import MobileNetV2 as Encoder
from .backbones.mobilenet import STAGES, STEM, rounded
from .pretrained import PretrainedClassifier, make_head

_LAST = 1280
#: Strides of the stages in the form for small images, whose first convolution has none either.
_CIFAR_STRIDES = (1, 1, 2, 2, 1, 2, 1)


class MobileNetV2(PretrainedClassifier):
    """Inverted residuals, the mean of each channel, and a linear layer (Sandler et al., CVPR 2018).

    3,504,872 parameters for RGB images of 1000 classes; names are those of torchvision's ``mobilenet_v2``. The CIFAR
    form is that of the experiments of ExpandNets (Guo et al., NeurIPS 2020, Table 2): the first two strides are 1,
    every block has its 1 x 1 convolution to more channels, blocks without a stride that change their channels have a
    1 x 1 convolution as shortcut, and activations are those of ``layers``. It has 2,296,922 parameters for 10 classes.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        stem: Form for large images (``imagenet``), or for those of 32 x 32 (``cifar``).
        width: Factor on all channels but the last 1280 where it is below 1; they are rounded to multiples of 8.
        layers: Kinds of the first convolution and of the norms; of the activations in the CIFAR form.
        dropout: Probability that a feature before the linear layer is zeroed during training, in [0, 1).
        weights: File with ImageNet weights in torchvision's layout, for the form ``imagenet``.
        asymmetric: Whether convolutions are asymmetric blocks (ACNet), see :func:`.asymmetric.to_asymmetric`.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 32; of 8 in the CIFAR form.

    Raises:
        PocketError: If the settings contradict each other.
    """

    first_weight = "features.0.0.weight"
    last_layer = "classifier.1"

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        width: float = 1.0,
        layers: LayerFactory = LayerFactory(conv=StandardConv(bias=False)),
        dropout: float = 0.2,
        weights: str | None = None,
        asymmetric: bool = False,
    ) -> None:
        divisor = 32 if stem == "imagenet" else 8
        super().__init__(in_channels, out_channels, spatial_dims, (divisor,) * spatial_dims)
        self.weights = weights
        if stem == "imagenet":
            encoder = Encoder(in_channels, spatial_dims, divisor, layers, width)
            features, before = list(encoder.features), encoder.channels[-1]
        else:
            features, before = _small_features(in_channels, spatial_dims, layers, width)
        last = rounded(_LAST * max(1.0, width))
        activation = nn.ReLU6() if stem == "imagenet" else layers.activation(last)
        conv = conv_class(spatial_dims)(before, last, 1, bias=False)
        features.append(nn.Sequential(conv, layers.norm(last, spatial_dims=spatial_dims), activation))
        self.features = nn.Sequential(*features)
        self.pool = global_mean_pool_class(spatial_dims)(1)
        self.classifier = make_head(last, out_channels, dropout)
        layers.initialize(self)
        if asymmetric:
            to_asymmetric(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.classifier(self.pool(self.features(x)).flatten(1))


def _small_features(
    in_channels: int, spatial_dims: int, layers: LayerFactory, width: float
) -> tuple[list[nn.Module], int]:
    """Return the layers for images of 32 x 32 before the last convolution, and the channels that they give."""
    before = rounded(STEM * width)
    stem = [
        layers.conv(in_channels, before, spatial_dims=spatial_dims),
        layers.norm(before, spatial_dims=spatial_dims),
        layers.activation(before),
    ]
    features: list[nn.Module] = [nn.Sequential(*stem)]
    for (expansion, channels, blocks, _), stride in zip(STAGES, _CIFAR_STRIDES, strict=True):
        after = rounded(channels * width)
        for block in range(blocks):
            widths = (before, expansion * before, after)
            features.append(SmallInvertedResidual(widths, layers, spatial_dims, stride if block == 0 else 1))
            before = after
    return features, before


class SmallInvertedResidual(nn.Module):
    """1 x 1, depthwise and linear 1 x 1 convolution with norms, plus a shortcut where there is no stride.

    Args:
        widths: Channels of the input, inside, and of the output.
        layers: Kinds of the norms and activations.
        spatial_dims: 2 or 3.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, widths: tuple[int, int, int], layers: LayerFactory, spatial_dims: int, stride: int) -> None:
        super().__init__()
        before, inner, after = widths
        conv = conv_class(spatial_dims)
        named = {
            "expand": conv(before, inner, 1, bias=False),
            "expand_norm": layers.norm(inner, spatial_dims=spatial_dims),
            "expand_activation": layers.activation(inner),
            "depthwise": conv(inner, inner, 3, stride, 1, groups=inner, bias=False),
            "depthwise_norm": layers.norm(inner, spatial_dims=spatial_dims),
            "depthwise_activation": layers.activation(inner),
            "project": conv(inner, after, 1, bias=False),
            "project_norm": layers.norm(after, spatial_dims=spatial_dims),
        }
        self.conv = nn.Sequential(OrderedDict(named))
        self.shortcut: nn.Module | None = None
        if stride == 1:
            self.shortcut = nn.Identity()
            if before != after:
                norm = layers.norm(after, spatial_dims=spatial_dims)
                self.shortcut = nn.Sequential(conv(before, after, 1, bias=False), norm)

    @override
    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.conv(x)
        return h if self.shortcut is None else h + self.shortcut(x)
