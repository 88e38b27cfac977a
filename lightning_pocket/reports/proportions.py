"""Interval of the difference of two shares that are measured on the same cases."""

from __future__ import annotations

import math
from statistics import NormalDist

_HALVINGS = 60  # of an interval no wider than 2: the end is found to the last digit


def paired_interval(gained: int, lost: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the score interval of the difference of two paired shares (Tango 1998).

    It holds the differences that a score test does not reject, so it has a width where the two methods are right in
    the same cases too: with ``gained = lost = 0`` it ends at ``z^2 / (N + z^2)`` on both sides.

    Args:
        gained: Cases that only the second method gets right.
        lost: Cases that only the first method gets right.
        count: All N cases, at least one.
        confidence: Chance with which the interval holds the true difference.

    Returns:
        Lower and upper end of the share of the second minus that of the first.
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _lower(gained, lost, count, z), -_lower(lost, gained, count, z)


def _lower(gained: int, lost: int, count: int, z: float) -> float:
    """Return where the score test first stops rejecting, by bisection between -1 and the difference found."""
    low, high = -1.0, (gained - lost) / count
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if gained - lost - count * middle > z * _deviation(gained, lost, count, middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _deviation(gained: int, lost: int, count: int, difference: float) -> float:
    """Return the standard deviation of gained minus lost, were the true difference of the shares that given."""
    # The most likely chance of a lost case under this difference is the larger root of a quadratic (Tango 1998).
    linear = (2 * count - gained + lost) * difference - gained - lost
    constant = -lost * difference * (1 - difference)
    chance = (math.sqrt(max(0.0, linear**2 - 8 * count * constant)) - linear) / (4 * count)
    return math.sqrt(max(0.0, count * (2 * chance + difference * (1 - difference))))
