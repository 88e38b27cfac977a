"""Proposes patch, batch and network shape for a prepared data set.

The rules follow nnU-Net (Isensee et al., Nature Methods 2021, supplement) with PocketNet's depth: every axis is halved
until it has 4 voxels left, and coarse axes wait until the others have become as coarse.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log2, prod

import numpy as np

from lightning_pocket.data.cache import Cache
from lightning_pocket.errors import PocketError
from lightning_pocket.storage import to_json

SMALLEST_SIDE = 4  # voxels of the coarsest level along each axis
ANISOTROPY = 2.0  # ratio of spacings from which an axis counts as coarse
BATCH_RANGE = (2, 16)


@dataclass(frozen=True)
class Plan:
    """Shape of a training.

    Args:
        median_shape: Median voxels of the prepared images along (D, H, W).
        spacing: Their voxel size in mm along (D, H, W), the median where each keeps its own.
        patch_size: Voxels of a patch along (D, H, W).
        batch_size: Patches in a batch.
        depth: Number of times the resolution is lowered.
        strides: ``depth`` lists, the factor along (D, H, W); None where all are 2.
        kernel_sizes: ``depth + 1`` lists, the kernel along (D, H, W); None where all are 3.
    """

    median_shape: tuple[int, ...]
    spacing: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    depth: int
    strides: list[list[int]] | None
    kernel_sizes: list[list[int]] | None


def make_plan(cache: Cache, max_depth: int, max_patch: int, batch_voxels: int) -> Plan:
    """Propose the shape of a training on a cache.

    Args:
        cache: The prepared data set.
        max_depth: Most times that the resolution is lowered.
        max_patch: Longest side of a patch in voxels.
        batch_voxels: Voxels of all patches in a batch.

    Returns:
        The plan.

    Raises:
        PocketError: If a limit is too small.
    """
    for key, value, least in (
        ("max_depth", max_depth, 1),
        ("max_patch", max_patch, 8),
        ("batch_voxels", batch_voxels, 1),
    ):
        if value < least:
            raise PocketError(f"{key}: is {value}, expected at least {least}.")
    cases = [cache.case(subject) for subject in cache.subjects]
    shape = tuple(int(n) for n in np.median([case.shape for case in cases], axis=0))
    spacing = tuple(float(mm) for mm in np.median([case.spacing for case in cases], axis=0))
    sides = tuple(min(max_patch, side) for side in shape)
    strides = choose_strides(sides, spacing, max_depth)
    multiples = [prod(step[axis] for step in strides) for axis in range(3)]
    # A side is rounded up to a multiple; one that is limited is rounded down, to keep within the limit.
    patch = tuple(max(m, min(-(-side // m), max_patch // m) * m) for side, m in zip(shape, multiples, strict=True))
    batch = min(max(batch_voxels // prod(patch), BATCH_RANGE[0]), BATCH_RANGE[1], len(cases))
    kernels = choose_kernels(strides, spacing)
    return Plan(
        median_shape=shape,
        spacing=spacing,
        patch_size=patch,
        batch_size=batch,
        depth=len(strides),
        strides=None if all(step == [2, 2, 2] for step in strides) else strides,
        kernel_sizes=None if all(kernel == [3, 3, 3] for kernel in kernels) else kernels,
    )


def choose_strides(sides: tuple[int, ...], spacing: tuple[float, ...], max_depth: int) -> list[list[int]]:
    """Choose which axes are halved at each step.

    Args:
        sides: Voxels along (D, H, W).
        spacing: Voxel size in mm along (D, H, W).
        max_depth: Most steps.

    Returns:
        One list of 1 or 2 along (D, H, W) per step; at least one step.
    """
    halvings = [max(0, floor(log2(side / SMALLEST_SIDE))) for side in sides]
    isotropic = max(spacing) < ANISOTROPY * min(spacing)
    if isotropic and max(halvings) - min(halvings) <= 1:
        return [[2, 2, 2]] * max(1, min(max_depth, *halvings))
    left, current = list(halvings), list(spacing)
    strides: list[list[int]] = []
    while len(strides) < max_depth and any(left):
        # An axis that can be halved no more must not hold up the others.
        finest = min(mm for mm, more in zip(current, left, strict=True) if more)
        step = [2 if more and mm < ANISOTROPY * finest else 1 for mm, more in zip(current, left, strict=True)]
        strides.append(step)
        left = [more - (factor == 2) for more, factor in zip(left, step, strict=True)]
        current = [mm * factor for mm, factor in zip(current, step, strict=True)]
    return strides or [[2, 2, 2]]


def choose_kernels(strides: list[list[int]], spacing: tuple[float, ...]) -> list[list[int]]:
    """Choose the kernels: 1 along an axis while its spacing is more than twice the finest, then 3.

    Args:
        strides: From ``choose_strides``.
        spacing: Voxel size in mm along (D, H, W) at full resolution.

    Returns:
        One list along (D, H, W) per level, one more than ``strides``.
    """
    current, kernels = list(spacing), []
    wide = [False, False, False]
    for step in [*strides, [1, 1, 1]]:
        # Once wide an axis stays wide: later the others are coarser only because it could be halved no more.
        wide = [before or mm <= ANISOTROPY * min(current) for before, mm in zip(wide, current, strict=True)]
        kernels.append([3 if w else 1 for w in wide])
        current = [mm * factor for mm, factor in zip(current, step, strict=True)]
    return kernels


def to_yaml(plan: Plan, cache: Cache, max_patch: int, batch_voxels: int) -> str:
    """Write a plan as an overlay for ``pocket fit``, with a comment on each number.

    Args:
        plan: The plan.
        cache: The cache that it was made for.
        max_patch: As in ``make_plan``.
        batch_voxels: As in ``make_plan``.

    Returns:
        YAML text.
    """
    shape = " x ".join(map(str, plan.median_shape))
    spacing = " x ".join(f"{mm:.3g}" for mm in plan.spacing)
    voxels = prod(plan.patch_size)
    least, most = BATCH_RANGE
    coarsest = " x ".join(map(str, _coarsest(plan)))
    axes = "Along D, H, W; an axis waits while it is at least twice as coarse as the finest, and stops at 4 voxels"
    return f"""\
# Proposed by `pocket plan` for {len(cache.subjects)} cases; median {shape} voxels of {spacing} mm (D x H x W).
data:
  init_args:
    cache: {_inline(str(cache.path))}
    # The median size, at most {max_patch} voxels a side, in multiples of what the network halves.
    patch_size: {_inline(list(plan.patch_size))}
    # {batch_voxels} voxels a batch / {voxels} voxels a patch, kept within {least} to {most} and the number of cases.
    batch_size: {plan.batch_size}
model:
  init_args:
    network:
      init_args:
        # The coarsest level sees {coarsest} voxels of a patch.
        depth: {plan.depth}
        # {"null halves every axis each time." if plan.strides is None else axes + "."}
        strides: {_inline(plan.strides)}
        # {_kernel_comment(plan)}
        kernel_sizes: {_inline(plan.kernel_sizes)}
"""


def _kernel_comment(plan: Plan) -> str:
    if plan.kernel_sizes is None:
        return "null is 3 along every axis."
    return "One per level: 1 along an axis while its voxels are more than twice as long as the shortest side."


def _coarsest(plan: Plan) -> list[int]:
    strides = plan.strides or [[2, 2, 2]] * plan.depth
    return [side // prod(step[axis] for step in strides) for axis, side in enumerate(plan.patch_size)]


def _inline(value: object) -> str:
    return " ".join(to_json(value).split()).replace("[ ", "[").replace(" ]", "]")
