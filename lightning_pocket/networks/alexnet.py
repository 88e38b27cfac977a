"""AlexNet."""

from __future__ import annotations

from math import prod
from typing import Literal

from torch import Tensor, nn
from torch.fx import Proxy
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class, max_pool_class

from .backbones.base import scaled
from .pretrained import PretrainedClassifier

#: Channels and groups of the five convolutions: with half of them on each of two GPUs, and later on one.
_CONVS = {
    "original": ((96, 1), (256, 2), (384, 1), (384, 2), (256, 2)),
    "torchvision": ((64, 1), (192, 1), (384, 1), (256, 1), (256, 1)),
}
_KERNELS = (11, 5, 3, 3, 3)
_POOLED = (0, 1, 4)  # convolutions that a max pooling follows
_FEATURES = 4096
_GRID = 6
_SMALLEST = 63


class AlexNet(PretrainedClassifier):
    """Five convolutions and three linear layers (Krizhevsky et al., NeurIPS 2012).

    ``torchvision`` is the later form with one group and no normalization, whose names the state dict has: 61,100,840
    parameters for RGB images of 1000 classes. ``original`` has the paper's channels, two groups in three convolutions
    and local response normalization: 60,965,224. Its first features, 55 x 55, come from images of 224 pixels padded by
    two, or of 227 pixels as they are; here it is the former. Features of images of other sizes are averaged to 6 x 6.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        variant: Which of the two.
        width: Factor on all channels and features.
        dropout: Probability that a feature before the first two linear layers is zeroed during training, in [0, 1).
        weights: File with ImageNet weights in torchvision's layout.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 32, at least 64.

    Raises:
        PocketError: If the settings contradict each other.
    """

    first_weight = "features.0.weight"
    last_layer = "classifier.6"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        variant: Literal["torchvision", "original"] = "torchvision",
        width: float = 1.0,
        dropout: float = 0.5,
        weights: str | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, spatial_dims, (32,) * spatial_dims)
        self.weights = weights
        pool = max_pool_class(spatial_dims)
        before, features = in_channels, []
        for index, ((channels, groups), kernel) in enumerate(zip(_CONVS[variant], _KERNELS, strict=True)):
            after = groups * scaled(channels // groups, width)
            stride, padding = (4, 2) if index == 0 else (1, kernel // 2)
            conv = conv_class(spatial_dims)(before, after, kernel, stride, padding, groups=groups)
            features += [conv, nn.ReLU()]
            if variant == "original" and index < 2:
                features.append(nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2.0))  # section 3.3 of the paper
            if index in _POOLED:
                features.append(pool(3, 2))
            before = after
        self.features = nn.Sequential(*features)
        grid = (_GRID,) * spatial_dims
        self.avgpool = global_mean_pool_class(spatial_dims)(grid)
        hidden = scaled(_FEATURES, width)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(before * prod(grid), hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, out_channels),
        )

    @override
    def check_input(self, x: Tensor | Proxy) -> None:
        super().check_input(x)
        if not isinstance(x, Proxy) and min(x.shape[2:]) < _SMALLEST:
            raise PocketError(
                f"The input has spatial size {tuple(x.shape[2:])}, expected at least {2 * self.divisor[0]} along each "
                "axis: AlexNet leaves nothing of smaller images. Prepare them larger."
            )

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
