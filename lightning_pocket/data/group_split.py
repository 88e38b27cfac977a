"""Draw training, validation and test cases group by group, in given numbers or shares."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lightning_pocket.data.folds import SPLITS, Assignment
from lightning_pocket.data.groups import GroupKey, apportion, draw_order, group_key
from lightning_pocket.errors import PocketError

_EXPECTED = "expected numbers of groups such as 208,70,70, or shares of 1 such as 0.6,0.2,0.2 (train, val, test)"


def parse_split(given: str | Sequence[float]) -> tuple[float, float, float]:
    """Read how many groups train, validate and test.

    Args:
        given: Three numbers, or text with three numbers between commas: whole numbers of groups, or shares of 1.

    Raises:
        PocketError: If it is anything else.
    """
    parts = given.strip("[]() ").split(",") if isinstance(given, str) else list(given)
    try:
        train, val, test = (float(part) for part in parts)
    except ValueError as error:
        raise PocketError(f"split: is {given}, {_EXPECTED}.") from error
    numbers = (train, val, test)
    shares = math.isclose(sum(numbers), 1, abs_tol=1e-6)
    whole = all(number == round(number) for number in numbers)
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or not (shares or whole) or train == 0:
        raise PocketError(f"split: is {given}, {_EXPECTED}.")
    return numbers


def split_groups(
    given: Mapping[str, Assignment],
    numbers: Sequence[float],
    seed: int = 0,
    classes: Mapping[str, str] | None = None,
) -> dict[str, Assignment]:
    """Draw which cases train, validate and test; a group never comes apart.

    Each part gets its share of the groups of every class, rounded so that the totals come out. A case without a group
    is a group of its own. The result depends on the names and the seed, not on the order of the cases.

    Args:
        given: What the data set says of each case; its groups are kept, its folds and splits are not.
        numbers: From :func:`parse_split`: groups of each part, which must add up to all of them, or shares of 1.
        seed: Changes who comes together.
        classes: Class of each case; that of a group is the one of its first case by name.

    Raises:
        PocketError: If the numbers do not add up to the groups.
    """
    members: dict[GroupKey, list[str]] = {}
    for subject in sorted(given):
        members.setdefault(group_key(subject, given[subject].group), []).append(subject)
    total = len(members)
    shares = math.isclose(sum(numbers), 1, abs_tol=1e-6) and total != 1
    wanted = apportion(total, numbers) if shares else [int(number) for number in numbers]
    if sum(wanted) != total:
        listed = " + ".join(map(str, wanted))
        raise PocketError(
            f"split: {listed} is {sum(wanted)}, but the data set has {total} groups of cases that belong together; "
            "give numbers that add up to them, or shares such as 0.6,0.2,0.2."
        )
    kinds: dict[str, list[GroupKey]] = {}
    for key in sorted(members, key=lambda key: draw_order(key, seed)):
        kinds.setdefault(classes[members[key][0]] if classes else "", []).append(key)
    place_of = dict(_deal(kinds, wanted))
    split_of = {subject: place_of[key] for key, subjects in members.items() for subject in subjects}
    return {subject: replace(place, fold=None, split=split_of[subject]) for subject, place in given.items()}


def _deal(kinds: Mapping[str, Sequence[GroupKey]], wanted: Sequence[int]) -> list[tuple[GroupKey, str]]:
    """Give each part its number of groups, and as far as rounding goes its share of each kind."""
    left = Counter(dict(zip(SPLITS, wanted, strict=True)))
    dealt = []
    for _, keys in sorted(kinds.items(), key=lambda entry: (len(entry[1]), entry[0])):  # the last takes what is left
        counts = apportion(len(keys), [left[split] for split in SPLITS])
        order = iter(keys)
        for split, count in zip(SPLITS, counts, strict=True):
            left[split] -= count
            dealt += [(next(order), split) for _ in range(count)]
    return dealt
