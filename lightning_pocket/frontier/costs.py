"""What networks cost: weights, multiply-accumulates, and the time of one image, measured in turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from lightning_pocket.errors import PocketError
from lightning_pocket.run_folder import RunFolder

from .trained import Trained


@dataclass(frozen=True)
class Costs:
    """What a network costs; means over its runs.

    Args:
        parameters: Weights.
        macs_formula: Multiply-accumulates of one image by equation (10), each kernel with its own size.
        macs: The same as they are executed.
        milliseconds: Time of one image; None where it was not measured.
        size: ``(C, *S)`` of that image.
    """

    parameters: float
    macs_formula: float
    macs: float
    milliseconds: float | None
    size: tuple[int, ...]


def measure_costs(found: Sequence[Trained], rounds: int) -> list[Costs]:
    """Return what networks cost, in their order.

    The networks take turns in one process, so that what slows the machine down slows all of them down. The time of each
    is that of its faster way: as it is, or with batch norms folded into convolutions.

    Args:
        found: The networks; of several runs the first is measured.
        rounds: How often each is measured; 0 measures no time.

    Raises:
        PocketError: If they take images of different sizes, whose costs cannot be compared.
    """
    import torch

    from lightning_pocket.compact.latency import time_side_by_side
    from lightning_pocket.layers import contract_for_use
    from lightning_pocket.profiling.macs import count_macs
    from lightning_pocket.speed import folded
    from lightning_pocket.tasks import load_task

    tasks = [load_task(RunFolder(entry.networks[0]).last) for entry in found]
    sizes = [(task.network.in_channels, *task.info.patch_size) for task in tasks]
    _check_sizes(found, sizes)
    image = torch.rand(1, *sizes[0])
    networks = [task.network.eval() for task in tasks]
    for network in networks:
        contract_for_use(network)
    times: list[float | None] = [None] * len(found)
    if rounds:
        ways = [*networks, *map(folded, networks)]
        # The least: what else the machine does makes calls longer, never shorter.
        taken = time_side_by_side([partial(way, image) for way in ways], rounds, summary=min)
        times = [min(pair) for pair in zip(taken[: len(found)], taken[len(found) :], strict=True)]
    costs = []
    for entry, network, time, size in zip(found, networks, times, sizes, strict=True):
        counted = count_macs(network, (1, *size))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        known = [(s.parameters[1], s.macs_formula[1], s.macs[1]) for s in entry.shrinkings]
        weights, formula, macs = (
            fmean(values) for values in zip(*(known or [(parameters, counted, counted)]), strict=True)
        )
        costs.append(Costs(weights, formula, macs, time, size))
    return costs


def before(entry: Trained) -> tuple[float, float] | None:
    """Return parameters and multiply-accumulates of the network that a learned one was made of; None of others."""
    return (entry.shrinkings[0].parameters[0], entry.shrinkings[0].macs[0]) if entry.shrinkings else None


def _check_sizes(found: Sequence[Trained], sizes: Sequence[tuple[int, ...]]) -> None:
    for entry, size in zip(found, sizes, strict=True):
        if size != sizes[0]:
            shown = ["x".join(map(str, s)) for s in (size, sizes[0])]
            raise PocketError(
                f"{entry.networks[0]}: takes images of {shown[0]}, {found[0].networks[0]} of {shown[1]}. Costs of "
                "different images cannot be compared; name runs that were trained alike."
            )
