"""The resolutions of a network: how far apart they are, and how large a kernel each one has."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from lightning_pocket.errors import PocketError
from lightning_pocket.layers.nd import per_axis


@dataclass(frozen=True)
class Pyramid:
    """Geometry of a network's levels, level 0 being the full resolution.

    Args:
        strides: Voxels of level ``i`` that make one voxel of level ``i + 1``, per axis; one entry per step down.
        kernel_sizes: Size of the kernels at each level in voxels, per axis; one entry more than ``strides``.
    """

    strides: tuple[tuple[int, ...], ...]
    kernel_sizes: tuple[tuple[int, ...], ...]

    @classmethod
    def build(
        cls,
        depth: int,
        spatial_dims: int,
        strides: Sequence[Sequence[int]] | None = None,
        kernel_sizes: Sequence[Sequence[int]] | None = None,
    ) -> "Pyramid":
        """Check the settings of a network and fill in the usual ones.

        Args:
            depth: Number of levels below the full resolution.
            spatial_dims: Number of spatial axes, 2 or 3.
            strides: ``depth`` lists of one integer per axis; ``None`` halves every axis each time.
            kernel_sizes: ``depth + 1`` lists of one odd integer per axis; ``None`` is 3 everywhere.

        Returns:
            The checked geometry.

        Raises:
            PocketError: If the settings contradict each other.
        """
        if depth < 1:
            raise PocketError(f"network.depth: found {depth}, expected at least 1.")
        steps = [[2] * spatial_dims] * depth if strides is None else strides
        kernels = [[3] * spatial_dims] * (depth + 1) if kernel_sizes is None else kernel_sizes
        for key, entries, expected in (("strides", steps, depth), ("kernel_sizes", kernels, depth + 1)):
            if len(entries) != expected:
                raise PocketError(
                    f"network.{key}: found {len(entries)} entries, expected {expected} because network.depth is "
                    f"{depth}. Change one of the two."
                )
        return cls(
            strides=tuple(per_axis(step, spatial_dims, "network.strides") for step in steps),
            kernel_sizes=tuple(per_axis(kernel, spatial_dims, "network.kernel_sizes") for kernel in kernels),
        )

    @property
    def depth(self) -> int:
        """Number of levels below the full resolution."""
        return len(self.strides)

    @property
    def divisor(self) -> tuple[int, ...]:
        """What the spatial size must be a multiple of, per axis, to reach the coarsest level."""
        return self.ratio(0, self.depth)

    def ratio(self, fine: int, coarse: int) -> tuple[int, ...]:
        """Return how many voxels of level ``fine`` make one of level ``coarse``, per axis."""
        return tuple(prod(steps) for steps in zip(*self.strides[fine:coarse], strict=True))

    def checkpointed(self, checkpoint_levels: int) -> int:
        """Return the number of levels whose features are computed again, after a check.

        Args:
            checkpoint_levels: Number of levels, from the finest on.

        Raises:
            PocketError: If there are not as many levels.
        """
        if not 0 <= checkpoint_levels <= self.depth + 1:
            raise PocketError(
                f"network.checkpoint_levels: found {checkpoint_levels}, expected 0 to {self.depth + 1} because "
                f"network.depth is {self.depth}."
            )
        return checkpoint_levels

    def heads(self, deep_supervision: int) -> range:
        """Return the levels that have an output.

        Args:
            deep_supervision: Number of extra outputs, on the levels next to the finest.

        Raises:
            PocketError: If there are not as many levels between the finest and the coarsest.
        """
        if not 0 <= deep_supervision < self.depth:
            raise PocketError(
                f"network.deep_supervision: found {deep_supervision}, expected 0 to {self.depth - 1} because "
                f"network.depth is {self.depth}. Lower it or choose a deeper network."
            )
        return range(deep_supervision + 1)
