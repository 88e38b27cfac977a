"""Which levers are the fastest, and why."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .levers import Levers

#: Prepares some work and returns it; the work returns what it computed.
Prepare = Callable[[], Callable[[], Sequence[float]]]
#: How much faster than plain a combination must be, so that chance does not decide.
THRESHOLD = 1.03


@dataclass(frozen=True)
class Timing:
    """How long the same work took with some levers.

    Args:
        levers: How it was done.
        milliseconds: Median time.
        ratio: Median over rounds of plain time / this time, both of the round of that number: above 1 is faster than
            plain.
        note: Why it cannot be chosen; empty if it can.
    """

    levers: Levers
    milliseconds: float | None = None
    ratio: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """The levers that a run goes on with.

    Args:
        levers: What was chosen.
        reason: Why, in a few words.
        timings: What was measured, plain first.
        what: What was measured, such as ``training steps``.
        rounds: How often.
    """

    levers: Levers
    reason: str
    timings: list[Timing] = field(default_factory=list)
    what: str = "steps"
    rounds: int = 0

    @property
    def record(self) -> dict[str, Any]:
        """Plain values for a manifest or a checkpoint; :meth:`Levers.from_record` reads them."""
        measured = [
            {"levers": str(t.levers), "median_ms": _rounded(t.milliseconds), "times_plain": _rounded(t.ratio)}
            | ({"note": t.note} if t.note else {})
            for t in self.timings
        ]
        return {"chosen": self.levers.names, "reason": self.reason, "rounds": self.rounds, "measured": measured}

    @classmethod
    def earlier(cls, record: Mapping[str, Any]) -> Choice:
        """Return a choice that was made before, from its record."""
        return cls(Levers.from_record(record), "as chosen before")

    def __str__(self) -> str:
        head = f"speed: {self.levers}, {self.reason}"
        if not self.timings:
            return head
        width = max(len(str(timing.levers)) for timing in self.timings)
        rows = [f"  {t.levers!s:<{width}}  {_row(t)}" for t in self.timings]
        return "\n".join([f"{head} (medians of {self.rounds} {self.what} each)", *rows])


def pick(
    times: Mapping[Levers, Sequence[float]], notes: Mapping[Levers, str], what: str, threshold: float = THRESHOLD
) -> Choice:
    """Return the fastest combination, or plain where none is faster by ``threshold``.

    Args:
        times: Seconds of each round, plain first.
        notes: Why some of them cannot be chosen.
        what: What was measured.
        threshold: Ratio of plain time to the time of the chosen one that must be reached.
    """
    plain, *others = times
    timings = [_timing(levers, times[levers], times[plain], notes.get(levers, "")) for levers in times]
    timings += [Timing(levers, note=note) for levers, note in notes.items() if levers not in times]
    valid = [t for t in timings[1:] if t.levers in others and not t.note and t.ratio is not None]
    best = max(valid, key=lambda timing: timing.ratio or 0.0, default=None)
    rounds = len(times[plain])
    if best is None or best.ratio is None or best.ratio < threshold:
        reason = f"nothing else was at least {threshold - 1:.0%} faster"
        return Choice(plain, reason, timings, what, rounds)
    return Choice(best.levers, f"{best.ratio:.2f} times as fast as {plain}", timings, what, rounds)


def measure(candidates: Mapping[Levers, Prepare], device: torch.device, rounds: int, what: str) -> Choice:
    """Do the same work with every combination, one after the other in each round, and pick the fastest.

    Memory that was kept cannot be given back completely, so combinations that keep it take their turns after all others
    have had theirs.

    Args:
        candidates: Plain first. Each prepares a combination, which is not timed, and returns the work, which is; the
            work returns numbers that must be the same for all within the rounding of their precision.
        device: Where the work is done.
        rounds: Measured repetitions; one more at the beginning is not counted.
        what: What the work is, such as ``training steps``.
    """
    plain, *others = candidates
    groups = [
        [plain, *(levers for levers in others if levers.keep_memory == plain.keep_memory)],
        [levers for levers in others if levers.keep_memory != plain.keep_memory],
    ]
    measured = _Measured(plain, device)
    for group in groups:
        for number in range(rounds + 1):
            for levers in group:
                measured.add(levers, candidates[levers], warm_up=number == 0)
                if not measured.finite:
                    return Choice(plain, f"not measured: the first batch gives {_shown(measured.expected)}")
    times = {levers: measured.times[levers] for levers in candidates if measured.times.get(levers)}
    return pick(times, measured.notes, what)


class _Measured:
    """Times of the combinations, and why some have none."""

    def __init__(self, plain: Levers, device: torch.device) -> None:
        self.times: dict[Levers, list[float]] = {}
        self.notes: dict[Levers, str] = {}
        self._plain = plain
        self._device = device
        self.expected: Sequence[float] = ()

    @property
    def finite(self) -> bool:
        """Whether plain computation gives numbers that others can be compared with."""
        return all(map(math.isfinite, self.expected))

    def add(self, levers: Levers, prepare: Prepare, warm_up: bool) -> None:
        """Do the work once; the first time it is checked, later it is timed."""
        if levers in self.notes:
            return
        try:
            seconds, values = self._timed(prepare)
        except Exception as error:
            if levers == self._plain:
                raise
            self.notes[levers] = _failure(error)
            self.times.pop(levers, None)
            return
        if not warm_up:
            self.times.setdefault(levers, []).append(seconds)
            return
        self.expected = self.expected or values
        if self.finite and not _agree(values, self.expected, levers):
            self.notes[levers] = f"computes {_shown(values)} instead of {_shown(self.expected)}"

    def _timed(self, prepare: Prepare) -> tuple[float, Sequence[float]]:
        work = prepare()
        synchronize(self._device)
        started = time.perf_counter()
        values = work()
        synchronize(self._device)
        return time.perf_counter() - started, values


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _agree(values: Sequence[float], expected: Sequence[float], levers: Levers) -> bool:
    tolerance = 0.2 if levers.bfloat16 else 1e-2
    pairs = zip(values, expected, strict=True)
    return all(abs(value - right) <= tolerance * max(abs(right), 1e-6) for value, right in pairs)  # false with NaN


def _shown(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _timing(levers: Levers, times: Sequence[float], plain: Sequence[float], note: str) -> Timing:
    ratio = statistics.median(reference / own for reference, own in zip(plain, times, strict=False))
    return Timing(levers, 1000 * statistics.median(times), ratio, note)


def _failure(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "needs more memory than there is"
    return f"failed: {next(iter(str(error).splitlines()), type(error).__name__)[:120]}"


def _row(timing: Timing) -> str:
    if timing.milliseconds is None or timing.ratio is None:
        return timing.note
    return f"{timing.milliseconds:9.1f} ms  {timing.ratio:5.2f}" + (f"  {timing.note}" if timing.note else "")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
