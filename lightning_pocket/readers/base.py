"""What reading a new case must give."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_pocket.data.layouts import Case
from lightning_pocket.errors import PocketError


@dataclass(frozen=True)
class Result(ABC):
    """A segmented case.

    Args:
        found: Class indices on the prepared grid.
        prepared_probabilities: ``(K, *S)`` float32 on the prepared grid; None where they were not asked for.
        notes: What makes the result doubtful, if anything.
    """

    found: np.ndarray
    prepared_probabilities: np.ndarray | None
    notes: list[str]

    @abstractmethod
    def write(self, path: Path) -> None:
        """Write the label map on the grid of the case's own file, whole or not at all."""

    @abstractmethod
    def write_probability(self, index: int, path: Path) -> None:
        """Write the probability of class number ``index`` likewise."""

    @abstractmethod
    def sizes(self) -> list[str]:
        """Return how much of the case each class takes, background first, such as ``12.3 ml``."""

    def _probability(self, index: int) -> np.ndarray:
        if self.prepared_probabilities is None:
            raise PocketError("probabilities: were not kept; ask `segment` for them.")
        plane: np.ndarray = self.prepared_probabilities[index]
        return plane


class Loaded(ABC):
    """What is kept of a case that was read.

    Attributes:
        notes: What makes a result doubtful, if anything.
    """

    notes: list[str]

    @abstractmethod
    def finish(self, found: np.ndarray, probabilities: np.ndarray | None) -> Result:
        """Return the result.

        Args:
            found: Class indices ``(*S)`` on the prepared grid.
            probabilities: ``(K, *S)`` on the prepared grid, if they were kept.
        """


class Reader(ABC):
    """Reads new cases as those of the training were prepared.

    Attributes:
        values: What the classes are written with, by class.
        needs: What the files of a case must be, as a clause.
    """

    values: list[str]
    needs: str

    @abstractmethod
    def find(self, paths: Sequence[str]) -> list[Case]:
        """Return the cases that a user means by some paths."""

    @abstractmethod
    def suffix(self, image: Path) -> str:
        """Return the suffix of the results of a case, whose first file this is."""

    @abstractmethod
    def load(self, images: Sequence[Path]) -> tuple[np.ndarray, Loaded]:
        """Read one case.

        Args:
            images: Its files.

        Returns:
            What the network sees, ``(C, *S)`` float32, and what turns its prediction into a result.

        Raises:
            PocketError: If a file cannot be read, or does not fit the training.
        """
