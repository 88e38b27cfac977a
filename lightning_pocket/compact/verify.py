"""Compare a network with its reduction before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_pocket.errors import PocketError

#: Largest relative difference in float64 that is rounding. A mistake differs by 1e-4 and more; where instance norms see
#: constant channels, they make up to 1e-11 of the rounding of the network before.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class Difference:
    """How much two networks differ.

    Args:
        size: Spatial size of the image.
        float64: Largest difference of all outputs, relative to the largest output, in float64.
        float32: The same in float32.
    """

    size: tuple[int, ...]
    float64: float
    float32: float


def two_sizes(divisor: Sequence[int], least: int = 8) -> list[tuple[int, ...]]:
    """Return two sizes of images, neither of them a cube.

    Args:
        divisor: What sizes must be multiples of.
        least: Smallest length of an axis.
    """
    steps = [max(2, -(-least // step)) for step in divisor]
    last = len(divisor) - 1
    return [
        tuple(step * (count + (axis == last)) for axis, (step, count) in enumerate(zip(divisor, steps, strict=True))),
        tuple(step * (count + (axis == 0)) for axis, (step, count) in enumerate(zip(divisor, steps, strict=True))),
    ]


def sizes_to_compare(network: nn.Module, in_channels: int, divisor: Sequence[int], usual: int) -> list[tuple[int, ...]]:
    """Return two sizes of images that a network takes, small ones where that is possible.

    Args:
        network: Is run on images of zeros.
        in_channels: Channels of the images.
        divisor: What sizes must be multiples of.
        usual: Longest axis of the images that it was trained on.

    Raises:
        PocketError: If it takes images of one size alone.
    """
    small, large = two_sizes(divisor), two_sizes(divisor, usual)
    for sizes in (small, large):
        if all(_takes(network, in_channels, size) for size in sizes):
            return sizes
    tried = " or ".join("x".join(map(str, size)) for size in large)
    raise PocketError(
        f"{type(network).__name__}: does not compute images of {tried}. What is reduced must take images of any size; "
        "a mean over all voxels before the linear layers does."
    )


def _takes(network: nn.Module, in_channels: int, size: Sequence[int]) -> bool:
    parameter = next(network.parameters())
    try:
        with torch.inference_mode():
            _outputs(network.eval(), parameter.new_zeros(2, in_channels, *size))
    except (RuntimeError, ValueError):
        return False
    return True


def compare(before: nn.Module, after: nn.Module, in_channels: int, sizes: Sequence[Sequence[int]]) -> list[Difference]:
    """Return how much two networks differ in evaluation, for random images.

    Args:
        before: A network; all of its outputs are compared.
        after: Its reduction.
        in_channels: Channels of the images.
        sizes: Spatial sizes of the images.
    """
    wide, wide_after = (copy.deepcopy(network).double().cpu().eval() for network in (before, after))
    narrow, narrow_after = (copy.deepcopy(network).float().cpu().eval() for network in (before, after))
    differences = []
    for size in sizes:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, in_channels, *size, dtype=torch.float64, generator=generator)
        exact, rounded = _relative(wide, wide_after, x), _relative(narrow, narrow_after, x.float())
        differences.append(Difference(tuple(size), exact, rounded))
    return differences


def check(differences: Sequence[Difference], source: str) -> None:
    """Raise an error unless two networks are the same.

    Args:
        differences: What :func:`compare` found.
        source: What was reduced, for the message.

    Raises:
        PocketError: If they differ by more than rounding.
    """
    for difference in differences:
        if not difference.float64 <= TOLERANCE:  # NaN is none
            raise PocketError(
                f"{source}: its reduction differs by {difference.float64:.1e} in float64 for images of "
                f"{'x'.join(map(str, difference.size))}, expected at most {TOLERANCE:.0e}. Nothing was written; "
                "this is a fault of the program, or the network works in place on results that it uses again."
            )


def relative_change(before: nn.Module, after: nn.Module, in_channels: int, size: Sequence[int]) -> float:
    """Return how much the outputs of two networks differ for a random image, relative to the largest output."""
    x = torch.randn(2, in_channels, *size, generator=torch.Generator().manual_seed(0))
    pair = [copy.deepcopy(network).float().cpu().eval() for network in (before, after)]
    return _relative(pair[0], pair[1], x)


def _relative(before: nn.Module, after: nn.Module, x: Tensor) -> float:
    with torch.inference_mode():
        pairs = list(zip(_outputs(before, x), _outputs(after, x), strict=True))
    worst = [float((one - other).abs().max() / one.abs().max().clamp_min(1e-30)) for one, other in pairs]
    return max(worst) if all(value == value for value in worst) else float("nan")


def _outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    outputs = getattr(network, "outputs", None)
    found = network(x) if outputs is None else outputs(x)
    if isinstance(found, Tensor):
        return [found]
    return list(found.values() if isinstance(found, dict) else found)
