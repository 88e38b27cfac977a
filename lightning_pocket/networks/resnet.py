"""ResNet as a classifier."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import LayerFactory, StandardConv
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class, max_pool_class

from .backbones.base import scaled
from .backbones.resnet import Bottleneck
from .pretrained import PretrainedClassifier

#: Blocks of each stage (He et al., CVPR 2016, Table 1).
_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_WIDTHS = (64, 128, 256, 512)
_WITH_BOTTLENECKS = 50


class ResNet(PretrainedClassifier):
    """Residual blocks at four resolutions, the mean of each channel, and a linear layer (He et al., CVPR 2016).

    Names are those of torchvision's ``resnet18`` and the like. Parameters for RGB images of 1000 classes:

    ==========  ==========  ==========  ==========  ==========
    18          34          50          101         152
    ==========  ==========  ==========  ==========  ==========
    11,689,512  21,797,672  25,557,032  44,549,160  60,192,808
    ==========  ==========  ==========  ==========  ==========

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        num_layers: Convolutions in a row and the linear layer; from 50 on blocks are bottlenecks.
        stem: A convolution of 7 x 7 and a max pooling, both with stride 2 (``imagenet``), or one of 3 x 3 that keeps
            the resolution (``cifar``).
        width: Factor on all channels: 0.25 is a small teacher.
        layers: Kinds of the convolutions that are not pointwise, of the norms and activations.
        weights: File with ImageNet weights in torchvision's layout.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 32; of 8 in the CIFAR form.

    Raises:
        PocketError: If the settings contradict each other.
    """

    first_weight = "conv1.weight"
    last_layer = "fc"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        num_layers: Literal[18, 34, 50, 101, 152] = 18,
        stem: Literal["imagenet", "cifar"] = "imagenet",
        width: float = 1.0,
        layers: LayerFactory = LayerFactory(conv=StandardConv(bias=False)),
        weights: str | None = None,
    ) -> None:
        large = stem == "imagenet"
        super().__init__(in_channels, out_channels, spatial_dims, ((32 if large else 8),) * spatial_dims)
        self.weights = weights
        inner = [scaled(channels, width) for channels in _WIDTHS]
        first: dict[str, Any] = {"kernel_size": 7, "stride": 2} if large else {"kernel_size": 3}
        self.conv1 = layers.conv(in_channels, inner[0], spatial_dims=spatial_dims, **first)
        self.bn1 = layers.norm(inner[0], spatial_dims=spatial_dims)
        self.relu = layers.activation(inner[0])
        self.maxpool: nn.Module = max_pool_class(spatial_dims)(3, 2, 1) if large else nn.Identity()
        block = Bottleneck if num_layers >= _WITH_BOTTLENECKS else BasicBlock
        before, stages = inner[0], []
        for stage, (blocks, channels) in enumerate(zip(_BLOCKS[num_layers], inner, strict=True)):
            made = []
            for index in range(blocks):
                stride = 2 if stage and not index else 1
                made.append(block(before, channels, layers, spatial_dims=spatial_dims, stride=stride, dilation=1))
                before = channels * block.expansion
            stages.append(nn.Sequential(*made))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = global_mean_pool_class(spatial_dims)(1)
        self.fc = nn.Linear(before, out_channels)
        layers.initialize(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        h = self.layer1(self.maxpool(self.relu(self.bn1(self.conv1(x)))))
        h = self.layer4(self.layer3(self.layer2(h)))
        return self.fc(self.avgpool(h).flatten(1))


class BasicBlock(nn.Module):
    """Two convolutions with norms, plus a shortcut; a stride is in the first one.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        layers: Kinds of the convolutions, norms and activations.
        shape: ``spatial_dims``, ``stride`` and ``dilation``.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, layers: LayerFactory, **shape: Any) -> None:
        super().__init__()
        spatial_dims, stride = shape["spatial_dims"], shape["stride"]
        self.conv1 = layers.conv(in_channels, channels, **shape)
        self.bn1 = layers.norm(channels, spatial_dims=spatial_dims)
        self.relu1 = layers.activation(channels)
        self.conv2 = layers.conv(channels, channels, **shape | {"stride": 1})
        self.bn2 = layers.norm(channels, spatial_dims=spatial_dims)
        self.relu2 = layers.activation(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                conv_class(spatial_dims)(in_channels, channels, 1, stride, bias=False),
                layers.norm(channels, spatial_dims=spatial_dims),
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(h)) + self.downsample(x))
