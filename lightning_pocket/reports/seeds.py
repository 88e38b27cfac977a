"""Several runs that differ in their seed alone, as one result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median, stdev

from .collect import RunResult, metric_of
from .comparison import on_same_cases
from .comparison_tables import METRICS
from .statistics_tables import NO_SCORE, scores_of


@dataclass(frozen=True)
class SeededRuns:
    """The runs of one row of a table that are done.

    Args:
        name: What they are called together.
        runs: One per seed, at least one.
        planned: How many there will be.
    """

    name: str
    runs: list[RunResult]
    planned: int

    def means(self, metric: str) -> list[float]:
        """Return the mean of a test metric over the cases of each run, or its score of all images together.

        Args:
            metric: Column of the scores of cases, or ``auc`` and the like of classifications.

        Returns:
            Finite numbers, one per run that has some.
        """
        found = [run.mean(metric) if metric in run.scores else scores_of(run).get(metric) for run in self.runs]
        return [value for value in found if value is not None and math.isfinite(value)]

    def mean(self, metric: str) -> float | None:
        """Return the mean of :meth:`means`, None without any."""
        means = self.means(metric)
        return fmean(means) if means else None

    def spread(self, metric: str) -> float | None:
        """Return the standard deviation of :meth:`means`, with n - 1; None for fewer than two runs."""
        means = self.means(metric)
        return stdev(means) if len(means) > 1 else None

    def show(self, metric: str) -> str:
        """Return mean ± standard deviation over the seeds as readers see it, and how many seeds are missing."""
        mean, spread = self.mean(metric), self.spread(metric)
        if mean is None:
            return NO_SCORE if any(metric in run.scores for run in self.runs) else "not tested"
        form = METRICS.get(metric_of(metric) or metric, ("", ".3g"))[1]
        text = f"{mean:{form}}" if spread is None else f"{mean:{form}} ± {spread:{form}}"
        return text if len(self.runs) == self.planned else f"{text} ({len(self.runs)} of {self.planned} seeds)"

    def joined(self) -> RunResult:
        """Return one result, whose score of a case is the mean over the seeds: tests pair cases, not seeds.

        Times are medians over the runs, memory their maximum. The ``accuracy`` of an image of a classification is the
        share of the runs that have it right.

        Raises:
            PocketError: If the runs were not tested on the same cases.
        """
        runs, _ = on_same_cases(self.runs)
        columns = [column for column in runs[0].scores if all(column in run.scores for run in runs)]
        scores = {column: _case_means([run.scores[column] for run in runs]) for column in columns}
        told = [run.classified for run in runs if run.classified is not None]
        if len(told) == len(runs):
            scores["accuracy"] = _case_means([(cases.predicted == cases.target).tolist() for cases in told])
        steps = [run.step_ms for run in runs if run.step_ms is not None]
        return replace(
            runs[0],
            name=self.name,
            step_ms=median(steps) if steps else None,
            scores=scores,
            curves={},
            peak_mib={kind: max(run.peak_mib.get(kind, 0.0) for run in runs) for kind in runs[0].peak_mib},
            train_s=None,
            classified=None,
            overall={},
        )


def _case_means(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return the mean of each case over the runs in which it is finite, NaN where it is in none."""
    kept = [[value for value in case if math.isfinite(value)] for case in zip(*scores, strict=True)]
    return [fmean(case) if case else math.nan for case in kept]
