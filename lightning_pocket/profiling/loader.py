"""How fast data come to the network, stage by stage, and what limits it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lightning_pocket.errors import PocketError


class Measurable(Protocol):
    """A stage of a loader, as a data module describes it."""

    @property
    def name(self) -> str:
        """What it is called in a table."""

    @property
    def place(self) -> str:
        """Who does it: ``loader``, ``transfer`` or ``device``."""

    @property
    def items(self) -> int:
        """Items per call."""

    @property
    def mib(self) -> float:
        """Size of the items of a call in MiB."""

    @property
    def work(self) -> Callable[[Any], object]:
        """What is timed; takes what ``prepare`` returns."""

    @property
    def prepare(self) -> Callable[[int], Any]:
        """Makes the input of a call from its number; it is not timed."""

    @property
    def probability(self) -> float:
        """Share of the items it is done to."""

    @property
    def remedy(self) -> str:
        """What to do where it limits loading."""


class Loading(Protocol):
    """A data module that describes how it loads."""

    def loader_stages(self) -> Sequence[Measurable]:
        """Return the stages of the training loader in their order."""

    def loader_workers(self) -> int:
        """Return how many processes prepare training batches; 0 where the training process does."""


@dataclass(frozen=True)
class Stage:
    """How fast one stage is by itself.

    Args:
        name: What is done.
        items_per_s: Patches or images per second, with one process.
        mib_per_s: MiB per second.
        share: Share of the time that an item takes through all stages.
        place: Who does it: ``loader`` (each worker, or the training process without any), ``transfer`` or ``device``.
        remedy: What to do where it limits loading.
    """

    name: str
    items_per_s: float
    mib_per_s: float
    share: float
    place: str
    remedy: str


def measure_loader(datamodule: Loading, seconds_per_stage: float = 2.0) -> list[Stage]:
    """Time each stage of a training loader by itself.

    Args:
        datamodule: What describes its stages.
        seconds_per_stage: How long each is measured; at least three calls are.

    Returns:
        The stages in their order.

    Raises:
        PocketError: If the time is not positive.
    """
    if seconds_per_stage <= 0:
        raise PocketError(f"seconds_per_stage: expected more than 0, got {seconds_per_stage}.")
    stages = list(datamodule.loader_stages())
    seconds = [_seconds_per_item(stage, seconds_per_stage) for stage in stages]
    total = sum(seconds) or 1.0
    return [
        Stage(stage.name, 1 / taken, stage.mib / stage.items / taken, taken / total, stage.place, stage.remedy)
        for stage, taken in zip(stages, seconds, strict=True)
    ]


def loader_speed(stages: Sequence[Stage], workers: int) -> tuple[float, str]:
    """Return how many items a second come to the network, and who limits that.

    Workers share what the loader does, and hand over while others prepare; the device augments while nobody waits but
    the network. Without workers the training process does one after the other.

    Args:
        stages: What :func:`measure_loader` found.
        workers: Processes that prepare batches.

    Returns:
        Items per second, and ``loader``, ``transfer`` or ``device``.
    """
    seconds = {place: sum(1 / s.items_per_s for s in stages if s.place == place) for place in PLACES}
    slowest = max(seconds, key=lambda place: seconds[place])
    if not workers:
        return 1 / sum(seconds.values()), slowest
    seconds["loader"] /= workers
    slowest = max(seconds, key=lambda place: seconds[place])
    return 1 / seconds[slowest], slowest


def what_limits(stages: Sequence[Stage], workers: int) -> str:
    """Say in one sentence or two what limits loading, and which setting would help.

    Args:
        stages: What :func:`measure_loader` found; not empty.
        workers: Processes that prepare batches.

    Returns:
        Plain text.
    """
    speed, place = loader_speed(stages, workers)
    slowest = min((stage for stage in stages if stage.place == place), key=lambda stage: stage.items_per_s)
    who = f"{workers} worker{'s' if workers > 1 else ''}" if workers else "the training process itself"
    return (
        f"{speed:,.1f} items/s with {who}, limited by '{slowest.name}', which takes {slowest.share:.0%} of the time "
        f"of an item. {slowest.remedy}"
    )


#: Who may do something.
PLACES = ("loader", "transfer", "device")


def _seconds_per_item(stage: Measurable, seconds: float) -> float:
    """Return the mean time of an item; the first call, which opens files and starts processes, does not count."""
    stage.work(stage.prepare(0))
    begin, spent, calls = time.perf_counter(), 0.0, 0
    while calls < 3 or (spent < seconds and time.perf_counter() - begin < 4 * seconds):
        calls += 1
        given = stage.prepare(calls)
        start = time.perf_counter()
        stage.work(given)
        spent += time.perf_counter() - start
    return max(stage.probability * spent / calls / stage.items, 1e-12)
