"""What draws of folds and splits share: groups that never part, an order by seed, and shares in whole numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

#: Names a group of cases, or a case of its own.
GroupKey = tuple[str, str]

_DENOMINATOR = 10**6  # 0.6 means 3/5, which a binary fraction is not


def group_key(subject: str, group: str | None) -> GroupKey:
    """Return what a case is drawn with; a case without a group stays apart from a group of its name."""
    return ("group", group) if group else ("subject", subject)


def describe_groups(groups: Iterable[str | None], noun: str) -> str:
    """Tell how many groups there are, so that nobody believes in groups that were not read.

    Args:
        groups: Group of each case.
        noun: What a case is called, such as ``image``.
    """
    groups = list(groups)
    number, alone = len({group for group in groups if group}), sum(1 for group in groups if not group)
    if not number:
        return f"no groups: every {noun} counts by itself"
    rest = f", and {alone:,} {noun}{'' if alone == 1 else 's'} by {'itself' if alone == 1 else 'themselves'}"
    return f"{number:,} group{'' if number == 1 else 's'}{rest if alone else ''}"


def draw_order(key: GroupKey, seed: int) -> bytes:
    """Return the place of a group in the order of a seed, which does not depend on the other groups."""
    return hashlib.sha256(f"{seed}\n{key[0]}\n{key[1]}".encode()).digest()


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """Divide a number in proportion to weights, by Hamilton's method: what is left goes to the largest remainders.

    Args:
        total: What is divided.
        weights: One for each part, none negative and one at least above 0; of equal remainders the first counts more.

    Returns:
        Whole numbers that add up to ``total``.
    """
    exact = [Fraction(weight).limit_denominator(_DENOMINATOR) for weight in weights]
    shares = [total * weight / sum(exact) for weight in exact]
    counts = [int(share) for share in shares]
    order = sorted(range(len(shares)), key=lambda index: (counts[index] - shares[index], index))
    for index in order[: total - sum(counts)]:
        counts[index] += 1
    return counts
