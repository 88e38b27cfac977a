"""Which cases train, validate and test: read from files, deterministic."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lightning_pocket.errors import PocketError

from .folds import Assignment, check_groups, read_folds
from .groups import apportion


@dataclass(frozen=True)
class SplitSettings:
    """How the cases are divided.

    Args:
        fold: Fold that is held out for testing; null trains on every case that has no ``split`` of its own.
        file: CSV with ``subject`` (or ``file``) and ``fold`` and/or ``split`` columns; null uses the folds that
            ``pocket prepare`` recorded.
        val_fraction: Share of the other cases that is used for validation (PocketNet: 0.1).
        max_val: Most cases used for validation (PocketNet: 10 volumes), or ``all`` for no limit (its 2D images).
        seed: Draws the validation cases and the fraction of the training cases.
        train_fraction: Share of the training cases that is used, above 0 and up to 1, rounded up within each class
            (PocketNet's Figure 5: 0.015 to 1). The cases of a small share are among those of a larger one;
            validation and test cases stay the same.
    """

    fold: int | None = 0
    file: str | None = None
    val_fraction: float = 0.1
    max_val: int | Literal["all"] = 10
    seed: int = 42
    train_fraction: float = 1.0


@dataclass(frozen=True)
class Split:
    """Cases of each part, by identifier."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def to_dict(self) -> dict[str, list[str]]:
        """Return the parts as plain types."""
        return {name: list(subjects) for name, subjects in asdict(self).items()}


def split_subjects(
    folds: Mapping[str, Assignment], settings: SplitSettings, classes: Mapping[str, str] | None = None
) -> Split:
    """Divide the cases.

    A case's own ``split`` (train, val, test) comes first; then the held-out fold tests; then some of the rest
    validates, unless a ``split`` of val was given. Last, a fraction of what is left trains.

    Args:
        folds: Fold and split of every prepared case.
        settings: What is held out, and how much validates.
        classes: Class of each case: validation and training have their share of each. None where voxels are labelled.

    Raises:
        PocketError: If the fold does not exist, the file misses cases, a group is in several folds or splits, or the
            fraction is out of range.
    """
    if not 0 < settings.train_fraction <= 1:
        raise PocketError(
            f"data.init_args.split.train_fraction: is {settings.train_fraction}, expected more than 0 and at most 1."
        )
    table = dict(folds)
    if settings.file is not None:
        table = _from_file(settings.file, table)
    check_groups(table, settings.file or "folds of the prepared data")
    known = sorted({entry.fold for entry in table.values() if entry.fold is not None})
    _check_fold(settings.fold, known)
    class_of = classes or dict.fromkeys(table, "")
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for subject, entry in sorted(table.items()):
        held_out = settings.fold is not None and entry.fold == settings.fold
        parts[entry.split or ("test" if held_out else "train")].append(subject)
    if not parts["val"]:
        groups = {subject: table[subject].group or subject for subject in parts["train"]}
        parts["val"] = _draw(groups, class_of, settings)
        drawn = set(parts["val"])
        parts["train"] = [subject for subject in parts["train"] if subject not in drawn]
    train = _keep(parts["train"], class_of, settings)
    return Split(tuple(train), tuple(parts["val"]), tuple(parts["test"]))


def _check_fold(fold: int | None, known: Sequence[int]) -> None:
    """Refuse a fold that does not exist; 0 is the default, and stands for none where there are no folds."""
    if fold is not None and known and fold not in known:
        raise PocketError(f"data.init_args.split.fold: there is no fold {fold}; the folds are {list(known)}.")
    if fold and not known:
        raise PocketError(
            f"data.init_args.split.fold: is {fold}, but the data have no folds, only train, val and test; leave "
            "it out, or prepare folds with --num_folds or --folds."
        )


def _draw(group_of: Mapping[str, str], class_of: Mapping[str, str], settings: SplitSettings) -> list[str]:
    """Draw validation cases group by group, so that no patient is on both sides, up to the share of each class."""
    members: dict[str, list[str]] = {}
    for subject in sorted(group_of):
        members.setdefault(group_of[subject], []).append(subject)
    if len(members) < 2:
        return []
    limit = len(group_of) if settings.max_val == "all" else settings.max_val
    most = min(math.ceil(settings.val_fraction * len(group_of)), limit)
    counts = sorted(Counter(class_of[subject] for subject in group_of).items())
    shares = apportion(most, [count for _, count in counts])
    room = Counter({name: share for (name, _), share in zip(counts, shares, strict=True)})
    groups = [members[name] for name in sorted(members)]
    drawn: list[str] = []
    for index in np.random.default_rng(settings.seed).permutation(len(groups)):
        content = Counter(class_of[subject] for subject in groups[index])
        if content <= room:
            drawn += groups[index]
            room -= content
    return sorted(drawn or (sorted(groups, key=len)[0] if most else []))


def _keep(subjects: Sequence[str], class_of: Mapping[str, str], settings: SplitSettings) -> list[str]:
    """Keep a fraction of each class, rounded up; a case's place in the queue depends on its name and the seed alone."""
    queues: dict[str, list[str]] = {}
    for subject in sorted(subjects, key=lambda name: hashlib.sha256(f"{settings.seed}\n{name}".encode()).digest()):
        queues.setdefault(class_of[subject], []).append(subject)
    # Binary fractions are inexact: 0.07 * 100 is a little more than 7.
    kept = {
        subject
        for queue in queues.values()
        for subject in queue[: math.ceil(settings.train_fraction * len(queue) - 1e-9)]
    }
    return [subject for subject in subjects if subject in kept]


def _from_file(file: str, folds: Mapping[str, Assignment]) -> dict[str, Assignment]:
    given = read_folds(Path(file), list(folds))
    missing = sorted(set(folds) - set(given))
    if missing:
        raise PocketError(
            f"{file}: {len(missing)} of {len(folds)} prepared cases have no fold, for example {missing[0]!r}. "
            "Add them, or set data.init_args.split.file to null."
        )
    return {subject: replace(given[subject], group=given[subject].group or folds[subject].group) for subject in folds}
