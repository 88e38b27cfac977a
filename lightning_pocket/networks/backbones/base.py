"""What every backbone promises."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override


class Backbone(nn.Module, ABC):
    """Features of an image at several resolutions.

    Attributes:
        channels: Channels of each tensor that :meth:`forward` returns.
        first_weight: Name of the first convolution's weights in the state dict.
        unused: Beginnings of the names in a file of weights that belong to the classifier, and are not read.
        layout: Whose names the state dict has, for messages.
    """

    first_weight: ClassVar[str]
    unused: ClassVar[tuple[str, ...]] = ()
    layout: ClassVar[str] = "torchvision"
    channels: tuple[int, ...]

    @override
    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return features of ``(B, C, *S)`` images, from fine to coarse."""


def scaled(channels: int, width: float) -> int:
    """Return ``channels`` times ``width``, at least 1."""
    return max(1, round(channels * width))


def atrous(strides: list[int], output_stride: int) -> list[tuple[int, int, int]]:
    """Trade strides for dilation once the resolution is as coarse as wanted (DeepLab, Chen et al., TPAMI 2018).

    A stride that is not taken leaves its own layer as it is and dilates all later ones, so that these see what they saw
    before, at more positions.

    Args:
        strides: Stride of each stage of layers, in order.
        output_stride: Pixels of the image that make one pixel of the last features.

    Returns:
        For each stage its stride, the dilation of its first layer and that of its other layers.
    """
    stages, reached, dilation = [], 1, 1
    for stride in strides:
        if reached * stride > output_stride:
            stages.append((1, dilation, dilation * stride))
            dilation *= stride
        else:
            stages.append((stride, dilation, dilation))
            reached *= stride
    return stages
