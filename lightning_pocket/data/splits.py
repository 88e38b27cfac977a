"""Which cases train, validate and test: read from files, deterministic."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from lightning_pocket.errors import PocketError

from .folds import Assignment, read_folds


@dataclass(frozen=True)
class SplitSettings:
    """How the cases are divided.

    Args:
        fold: Fold that is held out for testing; null trains on every case that has no ``split`` of its own.
        file: CSV with ``subject`` (or ``file``) and ``fold`` and/or ``split`` columns; null uses the folds that
            ``pocket prepare`` recorded.
        val_fraction: Share of the other cases that is used for validation (PocketNet: 0.1).
        max_val: Most cases used for validation (PocketNet: 10).
        seed: Draws the validation cases.
    """

    fold: int | None = 0
    file: str | None = None
    val_fraction: float = 0.1
    max_val: int = 10
    seed: int = 42


@dataclass(frozen=True)
class Split:
    """Cases of each part, by identifier."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def to_dict(self) -> dict[str, list[str]]:
        """Return the parts as plain types."""
        return {name: list(subjects) for name, subjects in asdict(self).items()}


def split_subjects(folds: Mapping[str, Assignment], settings: SplitSettings) -> Split:
    """Divide the cases.

    A case's own ``split`` (train, val, test) comes first; then the held-out fold tests; then some of the rest
    validates, unless a ``split`` of val was given.

    Args:
        folds: Fold and split of every prepared case.
        settings: What is held out, and how much validates.

    Raises:
        PocketError: If the fold does not exist, or the file misses cases.
    """
    table = dict(folds)
    if settings.file is not None:
        table = _from_file(settings.file, table)
    known = sorted({entry.fold for entry in table.values() if entry.fold is not None})
    if settings.fold is not None and known and settings.fold not in known:
        raise PocketError(f"data.init_args.split.fold: there is no fold {settings.fold}; the folds are {known}.")
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for subject, entry in sorted(table.items()):
        held_out = settings.fold is not None and entry.fold == settings.fold
        parts[entry.split or ("test" if held_out else "train")].append(subject)
    if not parts["val"]:
        parts["val"] = _draw({subject: table[subject].group or subject for subject in parts["train"]}, settings)
        parts["train"] = [subject for subject in parts["train"] if subject not in parts["val"]]
    return Split(tuple(parts["train"]), tuple(parts["val"]), tuple(parts["test"]))


def _draw(group_of: Mapping[str, str], settings: SplitSettings) -> list[str]:
    """Draw validation cases group by group, so that no patient is on both sides."""
    members: dict[str, list[str]] = {}
    for subject in sorted(group_of):
        members.setdefault(group_of[subject], []).append(subject)
    if len(members) < 2:
        return []
    most = min(math.ceil(settings.val_fraction * len(group_of)), settings.max_val)
    groups = [members[name] for name in sorted(members)]
    drawn: list[str] = []
    for index in np.random.default_rng(settings.seed).permutation(len(groups)):
        if len(drawn) + len(groups[index]) <= most:
            drawn += groups[index]
    return sorted(drawn or (sorted(groups, key=len)[0] if most else []))


def _from_file(file: str, folds: Mapping[str, Assignment]) -> dict[str, Assignment]:
    given = read_folds(Path(file), list(folds))
    missing = sorted(set(folds) - set(given))
    if missing:
        raise PocketError(
            f"{file}: {len(missing)} of {len(folds)} prepared cases have no fold, for example {missing[0]!r}. "
            "Add them, or set data.init_args.split.file to null."
        )
    return {subject: replace(given[subject], group=given[subject].group or folds[subject].group) for subject in folds}
