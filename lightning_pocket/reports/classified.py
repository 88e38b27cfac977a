"""The table of cases of a classification, read back and printed."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import CLASS_METRICS, Calibration, calibration, confusion_matrix, score_classes

from .tables import print_table

_PROBABILITY = "prob_"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Classified:
    """Predictions for a set of images.

    Args:
        subjects: Name of each of the N images.
        classes: Names of the K classes.
        target: ``(N,)`` index of the true class.
        probability: ``(N, K)`` predicted probabilities.
    """

    subjects: list[str]
    classes: list[str]
    target: np.ndarray
    probability: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """``(N,)`` index of the most probable class."""
        return self.probability.argmax(axis=1)

    @cached_property
    def scores(self) -> dict[str, float]:
        """What ``metrics.score_classes`` makes of them."""
        return score_classes(self.probability, self.target, self.classes)

    @property
    def confusion(self) -> np.ndarray:
        """``(K, K)`` counts, rows are true classes and columns predicted ones."""
        return confusion_matrix(self.target, self.predicted, len(self.classes))

    @property
    def calibration(self) -> Calibration:
        """How often predictions of like confidence are right."""
        return calibration(self.probability, self.target)

    @property
    def drawn(self) -> list[int]:
        """The classes that have a ROC curve: the second of two, each of more, unless all images or none are of it."""
        found = [1] if len(self.classes) == 2 else list(range(len(self.classes)))
        return [index for index in found if 0 < np.count_nonzero(self.target == index) < len(self.target)]


def is_classified(columns: Sequence[str]) -> bool:
    """Whether these are the columns of a classification: ``subject``, ``target`` and ``prob_NAME`` of each class."""
    return {"subject", "target"} <= set(columns) and any(column.startswith(_PROBABILITY) for column in columns)


def as_classified(rows: Sequence[Row], source: str) -> Classified:
    """Turn the rows of a table of cases into arrays.

    Args:
        rows: At least one; see :func:`is_classified`.
        source: Names the table in errors.

    Raises:
        PocketError: If a cell holds no probability, or a true class has no column.
    """
    classes = [column.removeprefix(_PROBABILITY) for column in rows[0] if column.startswith(_PROBABILITY)]
    index = {name: position for position, name in enumerate(classes)}
    unknown = sorted({str(row["target"]) for row in rows} - index.keys())
    if unknown:
        raise PocketError(
            f"{source}: the class {unknown[0]!r} has no column {_PROBABILITY}{unknown[0]}. Run `pocket test` again."
        )
    try:
        probability = np.array([[float(row[f"{_PROBABILITY}{name}"]) for name in classes] for row in rows])
    except (TypeError, ValueError) as error:
        raise PocketError(f"{source}: a probability is no number ({error}). Run `pocket test` again.") from error
    target = np.array([index[str(row["target"])] for row in rows])
    return Classified([str(row["subject"]) for row in rows], classes, target, probability)


def read_classified(path: Path) -> Classified | None:
    """Read a table of cases.

    Args:
        path: CSV file, such as ``test/cases.csv`` of a run.

    Returns:
        The predictions; None where the file is absent, empty, or of another task.

    Raises:
        PocketError: If a cell holds no probability, or a true class has no column.
    """
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not is_classified(reader.fieldnames or []):
            return None
        rows = list(reader)
    return as_classified(rows, str(path)) if rows else None


def print_classified(cases: Classified, title: str) -> None:
    """Print the scores of all images, of each class where there are several, and the confusion matrix.

    Args:
        cases: The predictions.
        title: A line above the scores.
    """
    scores = cases.scores
    lines = [[f"{len(cases.subjects)} images", *(_show(scores[name]) for name in CLASS_METRICS)]]
    if len(cases.classes) > 2:
        for name in cases.classes:
            lines.append([name, *(_show(scores.get(f"{metric}_{name}")) for metric in CLASS_METRICS)])
    print_table(["", *CLASS_METRICS], lines, title=title)
    counts = [[name, *map(int, row), int(row.sum())] for name, row in zip(cases.classes, cases.confusion, strict=True)]
    header = ["true class", *(f"predicted {name}" for name in cases.classes), "images"]
    print_table(header, counts, title="confusion matrix")


def _show(value: float | None) -> str:
    return "" if value is None else "not defined" if np.isnan(value) else f"{value:.4f}"
