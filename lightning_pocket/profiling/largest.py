"""The largest batch or patch that fits in some memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from lightning_pocket.errors import PocketError


class Peak(Protocol):
    """A prediction or a measurement."""

    @property
    def peak_mib(self) -> float:
        """Most memory that is held, in MiB."""


def largest_batch(predict: Callable[[int], Peak], budget_mib: float, limit: int = 1024) -> int:
    """Return the largest batch that fits, by doubling and bisection.

    Args:
        predict: Memory of a batch of that many images; it grows with them.
        budget_mib: Memory that may be taken, in MiB.
        limit: No batch larger than this is tried.

    Returns:
        Images per batch; 0 where not even one fits.
    """
    return _largest(lambda batch: predict(batch).peak_mib <= budget_mib, limit)


def largest_patch(
    predict: Callable[[tuple[int, ...]], Peak],
    start: Sequence[int],
    divisor: Sequence[int],
    budget_mib: float,
    limit: int | Sequence[int] = 512,
) -> tuple[int, ...] | None:
    """Return the largest patch that fits.

    The patch grows or shrinks by ``divisor`` along all axes at once, so it stays a cube where it began as one; then
    along single axes, the shortest first, as long as that fits too.

    Args:
        predict: Memory of a patch of that size; it grows with each axis.
        start: Voxels along each axis to begin with, rounded up to multiples of ``divisor``.
        divisor: What each size must be a multiple of.
        budget_mib: Memory that may be taken, in MiB.
        limit: No axis grows beyond this many voxels, one number for all or one per axis.

    Returns:
        Voxels along each axis; None where not even ``divisor`` itself fits.

    Raises:
        PocketError: If ``start`` and ``divisor`` have not the same number of axes, or a number is below 1.
    """
    if len(start) != len(divisor) or min(*start, *divisor) < 1:
        raise PocketError(f"start, divisor: found {list(start)} and {list(divisor)}; give one size >= 1 per axis.")
    counts = [-(-size // step) for size, step in zip(start, divisor, strict=True)]
    limits = [limit] * len(divisor) if isinstance(limit, int) else limit
    room = [max(1, most // step) for most, step in zip(limits, divisor, strict=True)]

    def sizes(counts: Sequence[int]) -> tuple[int, ...]:
        return tuple(count * step for count, step in zip(counts, divisor, strict=True))

    def changed(steps: int) -> list[int]:
        return [max(1, count + steps) for count in counts]

    def fits(counts: Sequence[int]) -> bool:
        return all(map(int.__le__, counts, room)) and predict(sizes(counts)).peak_mib <= budget_mib

    smallest = -max(counts)  # one less than what makes every axis a single divisor
    steps = smallest + _largest(lambda step: fits(changed(smallest + step)), max(room) + max(counts), guess=-smallest)
    if steps == smallest:
        return None
    best = changed(steps)
    while True:
        longer = ([count + (other == axis) for other, count in enumerate(best)] for axis in range(len(best)))
        found = next((counts for counts in sorted(longer, key=lambda counts: max(sizes(counts))) if fits(counts)), None)
        if found is None:
            return sizes(best)
        best = found


def _largest(fits: Callable[[int], bool], limit: int, guess: int = 1) -> int:
    """Return the largest number from 1 to ``limit`` that fits, 0 where none does; smaller ones than it fit too.

    Args:
        fits: Whether a number fits.
        limit: Largest number to try.
        guess: Where to begin.
    """
    good, bad = 0, limit + 1
    guess = min(guess, limit)
    while bad - good > 1:
        if fits(guess):
            good = guess
        else:
            bad = guess
        guess = min(2 * good, limit) if bad > limit and good else (good + bad) // 2
    return good
