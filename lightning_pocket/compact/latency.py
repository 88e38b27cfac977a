"""How long networks and layers take on this machine, side by side."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lightning_pocket.speed import folded

from .convolution import make_convolution

_LARGEST = {1: 4096, 2: 256, 3: 64}  # voxels along an axis, for choices between ways to compute a layer
_ROUNDS = 5
#: What takes longer than this, in ms, has forgotten what ran before it by the time it ends.
_LONG_MS = 200.0


class FastestWay:
    """Chooses between ways to compute a layer by trying them, as `pocket infer` would run them.

    Args:
        device: Where to try.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._known: dict[str, int] = {}

    def __call__(self, ways: Sequence[dict[str, Any]], shape: tuple[int, ...]) -> int:
        """Return the number of the fastest.

        Args:
            ways: Settings of the step.
            shape: ``(C, *S)`` of the input.
        """
        largest = _LARGEST[len(shape) - 1]
        shape = (shape[0], *(min(side, largest) for side in shape[1:]))
        key = json.dumps([list(ways), shape])
        if key not in self._known:
            x = torch.rand(1, *shape, device=self.device)
            modules = [folded(make_convolution(_without_border(way)).to(self.device)) for way in ways]
            times = time_side_by_side([_caller(module, x) for module in modules], _ROUNDS, self.device, min)
            self._known[key] = times.index(min(times))
        return self._known[key]


def fewest_parts(ways: Sequence[dict[str, Any]], shape: tuple[int, ...]) -> int:
    """Return the number of the first way with a single convolution, or with the fewest."""
    del shape
    counts = [len(way["parts"]) for way in ways]
    return counts.index(min(counts))


def time_side_by_side(
    calls: Sequence[Callable[[], object]],
    rounds: int,
    device: str = "cpu",
    summary: Callable[[list[float]], float] = statistics.median,
) -> list[float]:
    """Return how long each of several calls takes, in ms.

    They take turns, so that what slows the machine down slows all of them down; a first round is not counted. In its
    turn a short call is made twice, and the second counts: each finds the caches as it has left them itself, whatever
    ran before.

    Args:
        calls: What to call.
        rounds: How often.
        device: ``cpu`` or ``cuda``, whose work is waited for.
        summary: Makes one number of the times of a call.
    """
    times: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for _ in range(rounds + 1):
            for own, call in zip(times, calls, strict=True):
                taken = _time(call, device)
                own.append(taken if taken > _LONG_MS else _time(call, device))
    return [summary(own[1:]) for own in times]


def _time(call: Callable[[], object], device: str) -> float:
    began = time.perf_counter()
    call()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return 1000 * (time.perf_counter() - began)


@dataclass(frozen=True)
class Times:
    """How long two networks take for one image, in ms.

    Args:
        plain: Before and after, as they are.
        folded: The same with batch norms folded into convolutions, one of the ways that `pocket infer` tries.
    """

    plain: tuple[float, float]
    folded: tuple[float, float]

    @property
    def fastest(self) -> tuple[float, float]:
        """Before and after, each in its faster way."""
        return min(self.plain[0], self.folded[0]), min(self.plain[1], self.folded[1])


def time_networks(
    first: nn.Module, second: nn.Module, shape: Sequence[int], rounds: int = 7, device: str = "cpu"
) -> Times:
    """Return how long two networks take for the same image in evaluation: the least of several rounds.

    What else the machine does makes a call longer, never shorter.

    Args:
        first: Is moved to the device.
        second: The same.
        shape: ``(B, C, *S)``.
        rounds: How often.
        device: ``cpu`` or ``cuda``.
    """
    x = torch.rand(tuple(shape), device=device, dtype=next(first.parameters()).dtype)
    plain = [network.to(device).eval() for network in (first, second)]
    calls = [_caller(network, x) for network in [*plain, *map(folded, plain)]]
    one, other, one_folded, other_folded = time_side_by_side(calls, rounds, device, min)
    return Times((one, other), (one_folded, other_folded))


def _caller(module: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    return lambda: module(x)


def _without_border(way: dict[str, Any]) -> dict[str, Any]:
    """Return a step without what is the same in all ways."""
    return way | {"border": None, "free": 0}
