"""ResNets of pairs of layers, and their plain twins: the base architectures of structured sparsity."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.errors import PocketError
from lightning_pocket.layers import LayerFactory, NoNorm, StandardConv, WidthSchedule
from lightning_pocket.layers.nd import global_mean_pool_class, max_pool_class

from .base import Classifier

#: What a pair of layers is added to.
Shortcut = Literal["none", "pad", "project"]


class BasicResNet(Classifier):
    """A stem, pairs of layers at falling resolutions, the mean of each channel, and a linear layer to the classes.

    The base architectures of "Optimal Convolutional Architectures Via Structured Sparsity Regularizers", Table 2:
    ResNets of basic blocks (He et al., CVPR 2016) and the same networks without shortcuts. Their depth D counts the
    stem, two layers per pair and the linear layer. The first pair of each level but the finest may lower the
    resolution.

    Args:
        in_channels: Channels of the input image.
        out_channels: Number of classes.
        spatial_dims: 2 for images, 3 for volumes.
        depth: Number of levels below the first.
        widths: Channels at each depth; the stem has those of depth 0.
        layers: What the units are made of.
        pairs: Pairs of layers at each level.
        stride: Pixels of a level that make one pixel of the next; 1 keeps the resolution (the square networks, whose
            width does not double either).
        kernel_size: Odd size of the kernels of stem and pairs in pixels.
        stem: ``plain`` is one layer at full resolution; ``imagenet`` has a 7 x 7 kernel and stride 2, then a max pool
            of 3 x 3 with stride 2.
        shortcut: What the output of a pair is added to: ``none`` makes a plain network. Where a pair changes the width,
            ``pad`` takes every second pixel of its input and adds channels of zeros (option A of He et al.),
            ``project`` takes a 1 x 1 convolution with the norm of the other layers (option B).
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept: less memory, more time, the same gradients.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 2,
        depth: int = 2,
        widths: WidthSchedule = WidthSchedule(base=16),
        layers: LayerFactory = LayerFactory(conv=StandardConv(bias=False), norm=NoNorm()),
        pairs: int = 3,
        stride: Literal[1, 2] = 2,
        kernel_size: int = 3,
        stem: Literal["plain", "imagenet"] = "plain",
        shortcut: Shortcut = "pad",
        checkpoint_levels: int = 0,
    ) -> None:
        _check(depth, pairs, stride, checkpoint_levels)
        steps = stride**depth * (1 if stem == "plain" else 4)
        super().__init__(in_channels, out_channels, spatial_dims, (steps,) * spatial_dims, checkpoint_levels)
        shape = {"spatial_dims": spatial_dims, "kernel_size": kernel_size}
        first = {"spatial_dims": spatial_dims, "kernel_size": 7, "stride": 2} if stem == "imagenet" else shape
        self.stem = nn.Sequential(layers.unit(in_channels, widths(0), **first))
        if stem == "imagenet":
            self.stem.append(max_pool_class(spatial_dims)(3, 2, 1))
        stages = []
        before = widths(0)
        for level in range(depth + 1):
            made = []
            for index in range(pairs):
                step = stride if level and not index else 1
                made.append(Pair(before, widths(level), layers, shortcut, step, **shape))
                before = widths(level)
            stages.append(nn.Sequential(*made))
        self.stages = nn.ModuleList(stages)
        self.pool = nn.Sequential(global_mean_pool_class(spatial_dims)(1), nn.Flatten())
        self.head = nn.Linear(before, out_channels)
        layers.initialize(self)

    @override
    def forward(self, x: Tensor) -> Tensor:
        self.check_input(x)
        h = self.stem(x)
        for level, stage in enumerate(self.stages):
            h = self.at_level(level, stage, [stage], h)
        return self.head(self.pool(h))


class Pair(nn.Module):
    """Two layers, and perhaps a shortcut around them that is added before the last activation.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        layers: What the layers are made of.
        shortcut: See :class:`BasicResNet`.
        stride: Pixels of the input that make one pixel of the output.
        spatial_dims: 2 or 3.
        kernel_size: Odd size of the kernels in pixels.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S / stride)``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        layers: LayerFactory,
        shortcut: Shortcut,
        stride: int,
        *,
        spatial_dims: int,
        kernel_size: int,
    ) -> None:
        super().__init__()
        shape = {"spatial_dims": spatial_dims, "kernel_size": kernel_size}
        self.first = layers.unit(in_channels, out_channels, stride=stride, **shape)
        self.second = nn.Sequential(
            layers.conv(out_channels, out_channels, **shape), layers.norm(out_channels, spatial_dims=spatial_dims)
        )
        self.activation = layers.activation(out_channels)
        self.shortcut: nn.Module | None = None
        if shortcut != "none":
            self.shortcut = nn.Identity()
            if stride != 1 or in_channels != out_channels:
                self.shortcut = (
                    PadShortcut(in_channels, out_channels, stride, spatial_dims)
                    if shortcut == "pad"
                    else nn.Sequential(
                        layers.conv(in_channels, out_channels, spatial_dims=spatial_dims, kernel_size=1, stride=stride),
                        layers.norm(out_channels, spatial_dims=spatial_dims),
                    )
                )

    @override
    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x))
        if self.shortcut is not None:
            h = h + self.shortcut(x)
        return self.activation(h)


class PadShortcut(nn.Module):
    """Every ``stride``-th pixel of the input, and channels of zeros behind its own (option A of He et al., CVPR 2016).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, at least as many.
        stride: Pixels of the input that make one pixel of the output along each axis.
        spatial_dims: 2 or 3.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *ceil(S / stride))``.

    Raises:
        PocketError: If channels would have to go.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, spatial_dims: int) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise PocketError(
                f"network.shortcut: pad cannot make {out_channels} channels of {in_channels}; take project."
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.spatial_dims = spatial_dims

    @override
    def forward(self, x: Tensor) -> Tensor:
        kept = x[(slice(None), slice(None), *[slice(None, None, self.stride)] * self.spatial_dims)]
        return F.pad(kept, (*[0, 0] * self.spatial_dims, 0, self.out_channels - self.in_channels))

    @override
    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, stride={self.stride}"


def _check(depth: int, pairs: int, stride: int, checkpoint_levels: int) -> None:
    if depth < 0:
        raise PocketError(f"network.depth: found {depth}, expected at least 0.")
    if pairs < 1:
        raise PocketError(f"network.pairs: found {pairs}, expected at least 1 pair of layers at each level.")
    if stride not in (1, 2):
        raise PocketError(f"network.stride: found {stride}, expected 1 or 2.")
    if not 0 <= checkpoint_levels <= depth + 1:
        raise PocketError(
            f"network.checkpoint_levels: found {checkpoint_levels}, expected 0 to {depth + 1} because network.depth is "
            f"{depth}."
        )
