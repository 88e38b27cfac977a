"""DeepLab v3+."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import InstanceNorm, LayerFactory, StandardConv, pointwise
from lightning_pocket.layers.nd import upsample_mode

from .backbones import Backbone, MobileNetV2, ResNet101, Xception, load_backbone
from .backbones.base import scaled
from .base import Network

_BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet101": ResNet101,
    "xception": Xception,
    "mobilenet_v2": MobileNetV2,
}
#: Channels of the pyramid and the decoder, and of the low-level features beside them (Chen et al., ECCV 2018).
_WIDTH, _LOW_WIDTH = 256, 48
#: Dilations of the pyramid's three kernels, by output stride (Chen et al., 2017, section 3.3).
_RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


class DeepLabV3Plus(Network):
    """Atrous spatial pyramid pooling on the features of a backbone, and a small decoder.

    A baseline of "Lightweight U-Net for Lesion Segmentation in Ultrasound Images", Table 1 (DeepLab v3+: Chen et al.,
    ECCV 2018). With ``binary_head`` it has 59.3 million parameters with ResNet-101, 54.7 with Xception and 5.8 with
    MobileNetV2; the paper prints 54.7 million and says ResNet-101.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output, one per class.
        spatial_dims: 2 for images, 3 for volumes.
        backbone: ``resnet101``, ``xception`` or ``mobilenet_v2``.
        output_stride: Pixels of the image that make one pixel of the backbone's last features, 8 or 16: dilation takes
            the place of the strides that are left out.
        width: Factor on all channels.
        layers: What the 3 x 3 units are made of, and the kinds of all norms and activations. Depthwise kernels of a
            backbone stay as they are, and so do the activations of MobileNetV2.
        dropout: Probability that a feature is zeroed during training, in [0, 1): behind the pyramid, and behind each of
            the decoder's two units.
        backbone_weights: File with ImageNet weights of the backbone in torchvision's layout, read when a training
            begins anew; see :func:`~lightning_pocket.networks.backbones.load_backbone`.
        binary_head: Whether one channel, a sigmoid, makes the logits of both classes; for two classes.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S)``, each of ``S`` a multiple of ``output_stride``.

    Raises:
        PocketError: If a setting is out of range.
    """

    encoder_names: ClassVar[tuple[str, ...]] = ("backbone",)

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        backbone: Literal["resnet101", "xception", "mobilenet_v2"] = "resnet101",
        output_stride: Literal[8, 16] = 16,
        width: float = 1.0,
        layers: LayerFactory = LayerFactory(conv=StandardConv(bias=False)),
        dropout: tuple[float, float, float] = (0.5, 0.5, 0.1),
        backbone_weights: str | None = None,
        binary_head: bool = False,
    ) -> None:
        _check(backbone, output_stride, width, dropout)
        divisor = (output_stride,) * spatial_dims
        super().__init__(in_channels, out_channels, spatial_dims, divisor, binary_head=binary_head)
        self.backbone_weights = backbone_weights
        self.backbone = _BACKBONES[backbone](in_channels, spatial_dims, output_stride, layers, width)
        low, high = self.backbone.channels
        inner, beside = scaled(_WIDTH, width), scaled(_LOW_WIDTH, width)
        self.pyramid = nn.Sequential(
            AtrousPyramid(high, inner, layers, spatial_dims, _RATES[output_stride]), nn.Dropout(dropout[0])
        )
        self.beside = _pointwise_unit(low, beside, layers, spatial_dims)
        self.decoder = nn.Sequential(
            layers.unit(inner + beside, inner, spatial_dims=spatial_dims),
            nn.Dropout(dropout[1]),
            layers.unit(inner, inner, spatial_dims=spatial_dims),
            nn.Dropout(dropout[2]),
        )
        self.head = self.make_head(inner)
        layers.initialize(self)

    @override
    def load_pretrained(self) -> str:
        return load_backbone(self.backbone, self.backbone_weights) if self.backbone_weights else ""

    def features(self, x: Tensor) -> Tensor:
        """Return what the head sees, ``(B, 256 * width, *S / 4)``.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        self.check_input(x)
        low, high = self.backbone(x)
        return self.decoder(torch.cat([_resized(self.pyramid(high), low), self.beside(low)], dim=1))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return _resized(self.head(self.features(x)), x)


class AtrousPyramid(nn.Module):
    """Five views of the same features side by side: a pointwise one, three dilated kernels, and the whole image's mean.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of each view, and of their combination.
        layers: What the units are made of.
        spatial_dims: 2 or 3.
        rates: Dilation of each kernel.
    """

    def __init__(
        self, in_channels: int, out_channels: int, layers: LayerFactory, spatial_dims: int, rates: tuple[int, ...]
    ) -> None:
        super().__init__()
        dilated = (layers.unit(in_channels, out_channels, spatial_dims=spatial_dims, dilation=rate) for rate in rates)
        self.views = nn.ModuleList(
            [
                _pointwise_unit(in_channels, out_channels, layers, spatial_dims),
                *dilated,
                ImageMean(in_channels, out_channels, layers, spatial_dims),
            ]
        )
        self.project = _pointwise_unit(len(self.views) * out_channels, out_channels, layers, spatial_dims)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([view(x) for view in self.views], dim=1))


class ImageMean(nn.Module):
    """The mean of each feature over the image, through a pointwise unit, at every position.

    There is one value per image and channel, too few for some statistics: in a batch of one image a batch norm uses its
    running averages in training too, and there is no instance norm.
    """

    def __init__(self, in_channels: int, out_channels: int, layers: LayerFactory, spatial_dims: int) -> None:
        super().__init__()
        self.project = pointwise(in_channels, out_channels, spatial_dims, bias=False)
        alone = isinstance(layers.norm, InstanceNorm)
        self.norm = nn.Identity() if alone else layers.norm(out_channels, spatial_dims=spatial_dims)
        self.activation = layers.activation(out_channels)

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = self.project(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        norm = self.norm
        if self.training and len(h) == 1 and isinstance(norm, _BatchNorm):
            h = F.batch_norm(h, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        else:
            h = norm(h)
        return self.activation(h).expand(-1, -1, *x.shape[2:])


def _pointwise_unit(before: int, after: int, layers: LayerFactory, spatial_dims: int) -> nn.Module:
    return nn.Sequential(
        pointwise(before, after, spatial_dims, bias=False),
        layers.norm(after, spatial_dims=spatial_dims),
        layers.activation(after),
    )


def _resized(x: Tensor, like: Tensor) -> Tensor:
    mode = upsample_mode(x.ndim - 2)
    return F.interpolate(x, like.shape[2:], mode=mode, align_corners=True)


def _check(backbone: str, output_stride: int, width: float, dropout: tuple[float, ...]) -> None:
    if backbone not in _BACKBONES:
        raise PocketError(f"network.backbone: found {backbone!r}, expected one of {', '.join(_BACKBONES)}.")
    if output_stride not in _RATES:
        raise PocketError(f"network.output_stride: found {output_stride}, expected 8 or 16.")
    if not width > 0:
        raise PocketError(f"network.width: found {width}, expected a factor above 0, 1 for the published network.")
    if not all(0 <= probability < 1 for probability in dropout):
        raise PocketError(f"network.dropout: found {list(dropout)}, expected three probabilities in [0, 1).")
