"""Names of cases as numbers: tensors travel between processes, strings do not."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

from lightning_pocket.errors import PocketError

#: Key of an item without a name; named ones are 0 and above.
UNNAMED = -1


def counted_keys(subjects: Sequence[str] | None, items: int) -> tuple[list[int], Tensor]:
    """Return which items of a batch count, and their keys.

    Args:
        subjects: Case identifier of each item; an item with an empty one does not count. ``None`` makes each item a
            case of its own.
        items: Number of items in the batch.

    Returns:
        Indices of the items that count, and an int64 key for each of them: equal names have equal keys.

    Raises:
        PocketError: If there is not one subject per item.
    """
    if subjects is None:
        return list(range(items)), torch.full((items,), UNNAMED, dtype=torch.int64)
    if len(subjects) != items:
        raise PocketError(f"subjects: found {len(subjects)} for a batch of {items}; give one per item.")
    counted = [item for item in range(items) if subjects[item]]
    return counted, torch.tensor([_key(subjects[item]) for item in counted], dtype=torch.int64)


def distinct_keys(key_N: Tensor) -> Tensor:
    """Return ``(N,)`` keys in which items without a name have one each, all different."""
    unnamed_N = UNNAMED - torch.arange(len(key_N), device=key_N.device)
    return torch.where(key_N == UNNAMED, unnamed_N, key_N)


def _key(subject: str) -> int:
    """Return a number from 0 to 2**63 - 1."""
    return int.from_bytes(blake2b(subject.encode(), digest_size=8).digest(), "big") >> 1
