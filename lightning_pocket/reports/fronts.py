"""Results that no other one is better than."""

from __future__ import annotations

from collections.abc import Sequence


def undominated(scores: Sequence[Sequence[float]]) -> list[int]:
    """Return the places of the results that no other is as good as in all numbers and better than in one.

    Args:
        scores: Numbers of each result, of which more is better.
    """
    found: list[int] = []
    # Whatever dominates a result stands before it, and so does one of the front that does.
    for place in sorted(range(len(scores)), key=lambda index: tuple(scores[index]), reverse=True):
        own = scores[place]
        others = (scores[index] for index in found)
        if not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in others):
            found.append(place)
    return sorted(found)
