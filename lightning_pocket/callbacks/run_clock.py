"""How fast a training is, and how long the rest of it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

#: Seconds of training over which the speed that is shown is averaged: a queue of patches delivers in bursts.
_RECENT_S = 60.0
#: The same for the time that is left, which should not jump about.
_STEADY_S = 300.0
#: Validations and epochs over which their duration is averaged.
_LATEST = 5


@dataclass(frozen=True)
class Work:
    """What is left of a training.

    Args:
        batches: Training batches.
        validations: Validations, without one that is going on.
        epochs: Ends of epochs, at which checkpoints are written and loaders begin anew.
        validated: Share of the validation that is going on, 0 to 1; None outside of validations.
        is_exact: Whether nothing else can be left, such as validations of which nobody knows how many there will be.
    """

    batches: float
    validations: float = 0.0
    epochs: float = 0.0
    validated: float | None = None
    is_exact: bool = True


@dataclass(frozen=True)
class Estimate:
    """How long some work will take.

    Args:
        seconds: The duration.
        is_complete: Whether all of it is counted: before the first validation nobody knows how long one takes.
    """

    seconds: float
    is_complete: bool


class SlidingMean:
    """The mean of the latest durations, as many as fit in some seconds.

    Args:
        window_s: These seconds.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._entries: deque[tuple[float, int]] = deque()
        self._seconds = 0.0
        self._items = 0

    def add(self, seconds: float, items: int) -> None:
        """Add a duration, and how many items were worked on."""
        self._entries.append((seconds, items))
        self._seconds += seconds
        self._items += items
        while len(self._entries) > 1 and self._seconds - self._entries[0][0] >= self._window_s:
            first_s, first_items = self._entries.popleft()
            self._seconds -= first_s
            self._items -= first_items

    @property
    def seconds(self) -> float | None:
        """Seconds per duration; None before the first."""
        return self._seconds / len(self._entries) if self._entries else None

    @property
    def items_per_s(self) -> float | None:
        """Items per second; None before the first."""
        return self._items / self._seconds if self._seconds > 0 else None


class RunClock:
    """Measures batches, validations and what else an epoch takes, in this process.

    A batch lasts from the end of the one before, so that waiting for data counts; the first of an epoch, and the first
    after a validation, from its own beginning. The very first batch of the process is left out: it warms up.

    Args:
        now: Returns the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._recent = SlidingMean(_RECENT_S)
        self._steady = SlidingMean(_STEADY_S)
        self._validations: deque[float] = deque(maxlen=_LATEST)
        self._rests: deque[float] = deque(maxlen=_LATEST)
        self._is_warm = False
        self._from: float | None = None
        self._validates_since = 0.0
        self._is_new_epoch = False
        self._epoch_since = 0.0
        self._counted = 0.0

    @property
    def items_per_s(self) -> float | None:
        """Items per second of the latest batches, with waiting for data and without validations."""
        return self._recent.items_per_s

    def begin_epoch(self) -> None:
        """Note that an epoch begins; the one before is over when the first batch of this one is ready."""
        self._is_new_epoch, self._from = True, None

    def begin_batch(self) -> None:
        """Note that a batch is ready."""
        if self._from is None:
            self._from = self._now()
        if self._is_new_epoch:
            self._is_new_epoch = False
            if self._is_warm:
                self._rests.append(max(self._from - self._epoch_since - self._counted, 0.0))
            self._epoch_since, self._counted = self._from, 0.0

    def end_batch(self, items: int) -> None:
        """Note that a batch of so many items is done."""
        now = self._now()
        seconds = now - (now if self._from is None else self._from)
        self._from = now
        if not self._is_warm:
            self._is_warm = True
            self._epoch_since = now
            return
        self._counted += seconds
        self._recent.add(seconds, items)
        self._steady.add(seconds, items)

    def begin_validation(self) -> None:
        """Note that a validation begins."""
        self._validates_since = self._now()

    def end_validation(self) -> None:
        """Note that a validation is done."""
        seconds = self._now() - self._validates_since
        self._validations.append(seconds)
        self._counted += seconds
        self._from = None

    def left(self, work: Work) -> Estimate | None:
        """Return how long work that is left will take; None before the second batch.

        Args:
            work: What is left.
        """
        batch = self._steady.seconds
        if batch is None:
            return None
        seconds = work.batches * batch + work.epochs * (fmean(self._rests) if self._rests else 0.0)
        validation = self._validation_s(work)
        due = work.validations + (0.0 if work.validated is None else 1.0 - work.validated)
        return Estimate(seconds + due * (validation or 0.0), work.is_exact and (validation is not None or not due))

    def _validation_s(self, work: Work) -> float | None:
        """Return how long a validation takes: those that were measured, else the one that is going on."""
        if self._validations:
            return fmean(self._validations)
        return (self._now() - self._validates_since) / work.validated if work.validated else None
