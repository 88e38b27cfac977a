"""LeNet-5, as it was and as it is built today (LeCun et al., Proceedings of the IEEE 1998)."""

from __future__ import annotations

from math import prod
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers.nd import conv_class, global_mean_pool_class, max_pool_class, mean_pool_class

from .base import Classifier
from .digit_bitmaps import digit_bitmaps

_CONVS, _KERNEL, _FEATURES = (6, 16), 5, (120, 84)
_GRID = 5  # of a 32 x 32 image, behind both poolings
#: Features of S2 that each feature of C3 sees (Table I of the paper).
_SEEN = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


class LeNet5(Classifier):
    """Two convolutions of 5 x 5 with pooling, and three further layers.

    ``modern`` has ReLU, max pooling and linear layers: 61,706 parameters for grey images of 10 classes. ``original`` is
    the paper's: its second convolution sees some of the features only (Table I), pooling learns a factor and a shift,
    units are scaled hyperbolic tangents, and the output is the distance to a fixed picture of each digit, negative here
    so that larger means more likely: 60,000 trainable parameters. The pictures, of 7 x 12 pixels as in the paper, are
    drawn here; those of the paper differ in some pixels.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes; at most 10 of the original.
        spatial_dims: 2 for images, 3 for volumes.
        variant: Which of the two.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of 16. Features of images of other sizes
        than 32 pixels are averaged to 5 x 5.

    Raises:
        PocketError: If the original is to tell more than ten classes apart.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        variant: Literal["modern", "original"] = "modern",
    ) -> None:
        super().__init__(in_channels, out_channels, spatial_dims, (16,) * spatial_dims)
        original = variant == "original"
        if original and out_channels > len(digit_bitmaps()):
            raise PocketError(
                f"network.variant: is original, whose output are the ten digits, but there are {out_channels} classes. "
                "Set it to modern."
            )
        conv = conv_class(spatial_dims)

        def activation() -> nn.Module:
            return ScaledTanh() if original else nn.ReLU()

        def pool(channels: int) -> list[nn.Module]:
            if not original:
                return [max_pool_class(spatial_dims)(2)]
            return [LearnedPool(channels, spatial_dims), activation()]

        self.c1 = nn.Sequential(conv(in_channels, _CONVS[0], _KERNEL), activation())
        self.s2 = nn.Sequential(*pool(_CONVS[0]))
        second: nn.Module = SparseConv(spatial_dims) if original else conv(*_CONVS, _KERNEL)
        self.c3 = nn.Sequential(second, activation())
        self.s4 = nn.Sequential(*pool(_CONVS[1]))
        grid = (_GRID,) * spatial_dims
        self.resize = global_mean_pool_class(spatial_dims)(grid)
        # On features of 5 x 5 the convolution C5 of the paper is a linear layer.
        self.c5 = nn.Sequential(nn.Linear(_CONVS[1] * prod(grid), _FEATURES[0]), activation())
        self.f6 = nn.Sequential(nn.Linear(*_FEATURES), activation())
        self.output = BitmapDistance(out_channels) if original else nn.Linear(_FEATURES[1], out_channels)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        h = self.s4(self.c3(self.s2(self.c1(x))))
        return self.output(self.f6(self.c5(self.resize(h).flatten(1))))


class ScaledTanh(nn.Module):
    """``1.7159 tanh(2 x / 3)``, which is 1 at 1 (Appendix A of the paper)."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(x * (2 / 3))


class LearnedPool(nn.Module):
    """The sum of ``2 x 2 (x 2)`` pixels, times a factor, plus a shift, both learned for each channel.

    Args:
        channels: Channels of input and output.
        spatial_dims: 2 or 3.
    """

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.mean = mean_pool_class(spatial_dims)(2)
        shape = (channels, *[1] * spatial_dims)
        self.pixels = 2**spatial_dims
        self.factor = nn.Parameter(torch.full(shape, 1 / self.pixels))
        self.shift = nn.Parameter(torch.zeros(shape))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.mean(x) * (self.pixels * self.factor) + self.shift


class SparseConv(nn.Module):
    """C3: a convolution from 6 to 16 channels, each of which sees three to six of the former.

    Args:
        spatial_dims: 2 or 3.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        conv = conv_class(spatial_dims)
        self.seen = _SEEN
        self.convs = nn.ModuleList(conv(len(seen), 1, _KERNEL) for seen in _SEEN)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([conv(x[:, seen]) for conv, seen in zip(self.convs, map(list, self.seen), strict=True)], dim=1)


class BitmapDistance(nn.Module):
    """Minus the squared distance to the picture of each digit, from ``(B, 84)`` to ``(B, classes)``.

    Args:
        classes: The first digits that are told apart, at most 10.
    """

    centres: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("centres", torch.tensor(digit_bitmaps()[:classes]), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.centres).square().sum(dim=2)
