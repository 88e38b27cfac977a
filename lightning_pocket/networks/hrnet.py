"""High-resolution network."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_pocket.layers import BlockKind, LayerFactory, ResidualBlock, WidthSchedule, pointwise
from lightning_pocket.layers.nd import max_pool_class

from .base import Network
from .pyramid import Pyramid


class HRNet(Network):
    """Branches at several resolutions, run side by side, that exchange their features after every stage.

    As in PocketNet (Celaya et al., IEEE TMI 2023, Table I), with ``depth + 1`` stages. Stage 0 is one block at full
    resolution; each later stage adds the next coarser branch. A branch starts a stage from the sum of all branches
    before it: its own as it is, the others through a pointwise convolution, coarser ones upsampled (nearest), finer
    ones max-pooled. At the end the branches meet at full resolution, concatenated, in one last block and the head.

    Args:
        in_channels: Channels of the input image.
        out_channels: Channels of the output, one per class.
        spatial_dims: 2 for slices, 3 for volumes.
        depth: Number of resolutions below the finest; the paper's network has 3.
        widths: Channels of each branch.
        layers: What the units are made of.
        block: How the units of one branch are wired in one stage.
        strides: Ratios between neighbouring branches, ``depth`` lists of one integer per axis; ``None`` is 2
            everywhere.
        kernel_sizes: Kernels of each branch, ``depth + 1`` lists of one odd integer per axis; ``None`` is 3 everywhere.
        deep_supervision: Number of extra heads, on the branches next to the finest; less than ``depth``.
        checkpoint_levels: Number of levels, from the finest on, whose features are computed again for the gradients
            instead of being kept: less memory, more time, the same gradients.
        binary_head: Whether one channel, a sigmoid, makes the logits of both classes; for two classes.

    Shape:
        ``(B, in_channels, *S) -> (B, out_channels, *S)``, each of ``S`` a multiple of ``divisor``.

    Raises:
        PocketError: If the settings contradict each other.
    """

    def __init__(  # noqa: PLR0913 (config overlays set each of them by name)
        self,
        in_channels: int,
        out_channels: int,
        spatial_dims: int = 3,
        depth: int = 3,
        widths: WidthSchedule = WidthSchedule(),
        layers: LayerFactory = LayerFactory(),
        block: BlockKind = ResidualBlock(),
        strides: list[list[int]] | None = None,
        kernel_sizes: list[list[int]] | None = None,
        deep_supervision: int = 0,
        checkpoint_levels: int = 0,
        binary_head: bool = False,
    ) -> None:
        pyramid = Pyramid.build(depth, spatial_dims, strides, kernel_sizes)
        checkpointed = pyramid.checkpointed(checkpoint_levels)
        super().__init__(in_channels, out_channels, spatial_dims, pyramid.divisor, checkpointed, binary_head)
        width = [widths(level) for level in range(depth + 1)]

        def make_block(channels: int, level: int) -> nn.Module:
            kernel = pyramid.kernel_sizes[level]
            return block(channels, width[level], layers, spatial_dims=spatial_dims, kernel_size=kernel)

        def make_exchange(sources: int, target: int) -> Exchange:
            return Exchange([_path(source, target, width, pyramid) for source in range(sources)])

        self.stem = make_block(in_channels, 0)
        # In the first stage there is nothing to sum: the block of the new branch changes the width itself.
        first = Stage(
            [Exchange([nn.Identity()]), Exchange([max_pool_class(spatial_dims)(pyramid.strides[0])])],
            [make_block(width[0], 0), make_block(width[0], 1)],
        )
        later = (
            Stage(
                [make_exchange(stage, target) for target in range(stage + 1)],
                [make_block(width[target], target) for target in range(stage + 1)],
            )
            for stage in range(2, depth + 1)
        )
        self.stages = nn.ModuleList([first, *later])
        self.to_finest = nn.ModuleList(_path(branch, 0, width, pyramid) for branch in range(depth + 1))
        self.fuse = make_block((depth + 1) * width[0], 0)
        self.heads = nn.ModuleList(self.make_head(width[level]) for level in pyramid.heads(deep_supervision))
        layers.initialize(self)

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the fused features, then those of the coarser branches.

        Args:
            x: ``(B, in_channels, *S)`` images.

        Returns:
            One ``(B, widths(i), *S / strides)`` tensor per branch ``i``, from fine to coarse.

        Raises:
            PocketError: If :meth:`check_input` refuses ``x``.
        """
        self.check_input(x)
        branches = [self.at_level(0, self.stem, [self.stem], x)]
        for stage in self.stages:
            branches = stage(branches, self.at_level)
        return [self.at_level(0, self._fused, [self.to_finest, self.fuse], *branches), *branches[1:]]

    def _fused(self, *branches: Tensor) -> Tensor:
        at_finest = [path(branch) for path, branch in zip(self.to_finest, branches, strict=True)]
        return self.fuse(torch.cat(at_finest, dim=1))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.heads[0](self.features(x)[0])

    @override
    def outputs(self, x: Tensor) -> list[Tensor]:
        return [head(h) for head, h in zip(self.heads, self.features(x), strict=False)]


class Exchange(nn.Module):
    """Sum of all branches at the resolution and width of one of them, one module per source branch."""

    def __init__(self, paths: Sequence[nn.Module]) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)

    @override
    def forward(self, branches: list[Tensor]) -> Tensor:
        first, *others = [path(branch) for path, branch in zip(self.paths, branches, strict=True)]
        for other in others:
            first = first + other
        return first


class Stage(nn.Module):
    """For each branch, a new coarser one included, an exchange and a block.

    Args:
        exchanges: From all branches before the stage to the input of each block.
        blocks: One per branch after the stage.
    """

    def __init__(self, exchanges: Sequence[Exchange], blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.exchanges = nn.ModuleList(exchanges)
        self.blocks = nn.ModuleList(blocks)

    @override
    def forward(self, branches: list[Tensor], at_level: Callable[..., Tensor]) -> list[Tensor]:
        """Return the branches after the stage; ``at_level`` is that of the network."""
        pairs = enumerate(zip(self.exchanges, self.blocks, strict=True))
        return [
            at_level(level, partial(_exchange, exchange, block), [exchange, block], *branches)
            for level, (exchange, block) in pairs
        ]


def _exchange(exchange: nn.Module, block: nn.Module, *branches: Tensor) -> Tensor:
    return block(exchange(list(branches)))


def _path(source: int, target: int, widths: list[int], pyramid: Pyramid) -> nn.Module:
    """Return the module that takes one branch to the resolution and width of another."""
    if source == target:
        return nn.Identity()
    spatial_dims = len(pyramid.divisor)
    project = pointwise(widths[source], widths[target], spatial_dims)
    if source < target:
        return nn.Sequential(max_pool_class(spatial_dims)(pyramid.ratio(source, target)), project)
    # A pointwise convolution and nearest upsampling commute; this order needs less time and memory.
    return nn.Sequential(project, nn.Upsample(scale_factor=pyramid.ratio(target, source), mode="nearest"))
