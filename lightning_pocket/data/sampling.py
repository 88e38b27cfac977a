"""Where a patch is cut: start boxes for volumes of any size, balanced over classes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from lightning_pocket.errors import PocketError

Voxels = NDArray[np.int32]


class PatchSampler(ABC):
    """Chooses the voxel at the centre of a patch."""

    @abstractmethod
    def centre(self, shape: Sequence[int], foreground: Voxels, rng: np.random.Generator) -> Sequence[int]:
        """Return the voxel to centre a patch on.

        Args:
            shape: Voxels of the volume along D, H, W.
            foreground: ``(N, 4)`` rows (class, d, h, w), sorted by class; voxels of every class but background.
            rng: Source of randomness.
        """


@dataclass(frozen=True)
class UniformSampler(PatchSampler):
    """Every voxel is equally likely to be the centre."""

    @override
    def centre(self, shape: Sequence[int], foreground: Voxels, rng: np.random.Generator) -> Sequence[int]:
        return [int(rng.integers(side)) for side in shape]


@dataclass(frozen=True)
class ForegroundSampler(PatchSampler):
    """Centres patches on labelled voxels, every class of the case equally likely, whatever its size.

    Args:
        probability: Share of the patches centred on a labelled voxel; the others are centred anywhere. The authors of
            PocketNet used 0.85.
    """

    probability: float = 0.85

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise PocketError(f"sampler.probability: expected a number from 0 to 1, got {self.probability}.")

    @override
    def centre(self, shape: Sequence[int], foreground: Voxels, rng: np.random.Generator) -> Sequence[int]:
        if len(foreground) == 0 or rng.random() >= self.probability:
            return UniformSampler().centre(shape, foreground, rng)
        classes = foreground[:, 0]
        chosen = rng.choice(np.unique(classes))
        first, last = np.searchsorted(classes, [chosen, chosen + 1])
        return [int(index) for index in foreground[rng.integers(first, last), 1:]]


def patch_start(centre: Sequence[int], shape: Sequence[int], patch_size: Sequence[int]) -> list[int]:
    """Return the first voxel of the patch around ``centre``, moved to lie inside the volume where it fits.

    Along an axis where the volume is smaller than the patch, the start is negative so that the volume is centred.
    TorchIO's own sampler cannot centre a patch nearer to a face than half its size; clamping reaches every voxel.
    """
    return [
        min(max(voxel - size // 2, 0), side - size) if side >= size else -((size - side) // 2)
        for voxel, side, size in zip(centre, shape, patch_size, strict=True)
    ]


def cut(array: NDArray[np.generic], start: Sequence[int], patch: NDArray[np.generic]) -> None:
    """Copy a patch out of a volume, zero where it reaches beyond the volume.

    Args:
        array: ``(..., D, H, W)``, may be memory-mapped: only the voxels of the patch are read.
        start: First voxel of the patch along D, H, W; may be negative.
        patch: ``(..., d, h, w)``, overwritten.
    """
    source: list[slice | EllipsisType] = [...]
    target: list[slice | EllipsisType] = [...]
    for first, size, side in zip(start, patch.shape[-3:], array.shape[-3:], strict=True):
        low, high = max(first, 0), min(first + size, side)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    inside = array[tuple(source)]
    if inside.shape != patch.shape:
        patch[:] = 0
    patch[tuple(target)] = inside
