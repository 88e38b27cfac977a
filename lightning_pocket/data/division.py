"""Who trains, validates and tests: what a user says of it when a data set is prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lightning_pocket.data.folds import Assignment, assign
from lightning_pocket.data.group_split import parse_split, split_groups
from lightning_pocket.data.groups import describe_groups
from lightning_pocket.data.layouts import Case
from lightning_pocket.errors import PocketError

AnyCase = TypeVar("AnyCase", bound=Case)


@dataclass(frozen=True)
class Division:
    """How cases are divided: as a file says, drawn by numbers of groups, or as the data set says or folds are made.

    Args:
        file: CSV file of folds; None for none.
        num_folds: Number of folds to make instead of those of the data set; None takes these, and makes five where
            there are none.
        split: Numbers or shares of the groups that train, validate and test; None for folds.
        seed: Seed of what is drawn.
    """

    file: Path | None
    num_folds: int | None
    split: tuple[float, float, float] | None
    seed: int

    @classmethod
    def parse(
        cls, folds: str | None, num_folds: int | None, split: str | Sequence[float] | None, seed: int
    ) -> Division:
        """Read the options of ``pocket prepare``.

        Raises:
            PocketError: If one of them is wrong, or two say who tests.
        """
        if folds and split is not None:
            raise PocketError(f"split: is {split}, but --folds {folds} says who trains and tests; give one of them.")
        if num_folds is not None and num_folds < 2:
            raise PocketError(
                f"num_folds: is {num_folds}, expected at least 2. For cases that all train give --split 1,0,0."
            )
        file, drawn = Path(folds) if folds else None, None if split is None else parse_split(split)
        return cls(file, num_folds, drawn, seed)

    def trusted(self, cases: Sequence[AnyCase]) -> list[AnyCase]:
        """Return the cases with those folds and splits of the data set that count; none where no case's do."""
        if self.file is not None or self.split is not None:
            return []
        return list(cases) if self.num_folds is None else [replace(case, fold=None) for case in cases]

    def __call__(
        self, given: Mapping[str, Assignment], classes: Mapping[str, str] | None = None
    ) -> dict[str, Assignment]:
        """Return fold and split of each case.

        Args:
            given: What the data set says of each case.
            classes: Class of each case.

        Raises:
            PocketError: If that is not possible.
        """
        if self.split is not None:
            return split_groups(given, self.split, self.seed, classes)
        return assign(given, self.file, self.num_folds, self.seed, classes)

    def remarks(self, given: Mapping[str, Assignment], found: Mapping[str, Assignment], noun: str) -> list[str]:
        """Return what a user must know of the division, in a line each.

        Args:
            given: What the data set says of each case.
            found: Fold, split and group of each.
            noun: What a case is called, such as ``image``.
        """
        lines = [describe_groups((place.group for place in found.values()), noun)]
        has_folds = any(place.fold is not None for place in given.values())
        has_splits = any(place.split is not None for place in given.values())
        if self.split is not None and (has_folds or has_splits):
            lines.append("the folds and splits of the data set are not used, since --split draws anew")
        if self.num_folds is None:
            return lines
        other = "split" if self.split is not None else "folds" if self.file is not None else None
        if other is not None:
            lines.append(f"--num_folds {self.num_folds} is not used, since --{other} says who trains and tests")
        elif has_folds:
            lines.append(f"the folds of the data set are not used, since --num_folds {self.num_folds} makes new ones")
        return lines
