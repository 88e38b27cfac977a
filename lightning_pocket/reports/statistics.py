"""Paired comparison of two sets of scores of the same cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lightning_pocket.errors import PocketError

#: Up to this many differences the null distribution is counted out; beyond, the normal approximation is as good.
_EXACT = 50
#: With fewer differences no two-sided signed-rank test gives p < 0.05: 2 / 2^5 = 0.0625.
FEWEST = 6
#: From fewer cases no verdict is drawn: percentile intervals are too narrow. Of normally distributed differences the
#: 95 % interval holds the mean in 75 % of the samples of 3 cases, 90 % of those of 10 and 93 % of those of 20.
FEWEST_JUDGED = 10
#: Decimals to which differences are compared: 0.3 - 0.2 and 0.2 - 0.1 are the same difference.
_DECIMALS = 12
_CHUNK = 2**20  # resampled values in memory at once
ALL_EQUAL = "both score the same in every case"
TOO_FEW = "too few cases to reach p < 0.05"


@dataclass(frozen=True)
class Bootstrap:
    """How intervals are found: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13).

    Args:
        resamples: Number of resamples of the cases, drawn with replacement.
        confidence: Share of the resampled means that lie in the interval.
        seed: Draws the resamples.

    Raises:
        PocketError: If a number is out of range.
    """

    resamples: int = 10_000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if self.resamples < 1:
            raise PocketError(f"--resamples {self.resamples}: expected 1 or more, such as 10000.")
        if not 0 < self.confidence < 1:
            raise PocketError(f"--confidence {self.confidence}: expected a share between 0 and 1, such as 0.95.")
        if self.seed < 0:
            raise PocketError(f"--seed {self.seed}: expected 0 or more.")

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """Return the interval of the mean of ``values``.

        Args:
            values: ``(N,)``, at least one.
        """
        if np.ptp(values) == 0:
            return float(values[0]), float(values[0])
        random = np.random.default_rng(self.seed)
        step = max(1, _CHUNK // len(values))
        sizes = [min(step, self.resamples - start) for start in range(0, self.resamples, step)]
        means = [values[random.integers(0, len(values), (size, len(values)))].mean(1) for size in sizes]
        return self.percentiles(np.concatenate(means))

    def percentiles(self, resampled: np.ndarray) -> tuple[float, float]:
        """Return the ends of the central share of resampled statistics."""
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(resampled, [tail, 1 - tail])
        return float(low), float(high)


@dataclass(frozen=True)
class PairedComparison:
    """How the scores of a second method differ from those of a first, on the same cases.

    Args:
        cases: Pairs that were compared.
        left_out: Pairs in which a score is not a finite number; they count nowhere else.
        difference: Mean of second minus first.
        low: Lower end of its bootstrap interval.
        high: Upper end of its bootstrap interval.
        p: Two-sided p value; NaN where none is computed.
        effect: Matched-pairs rank-biserial correlation, of the sign of the differences; NaN where none is computed.
        larger: Cases in which the second score is larger.
        equal: Cases in which both are the same.
        smaller: Cases in which the second score is smaller.
        note: What a reader must know of the numbers; empty where nothing stands against them.
        doubt: Why the interval bears no verdict; empty where it does.
    """

    cases: int
    left_out: int
    difference: float
    low: float
    high: float
    p: float
    effect: float
    larger: int
    equal: int
    smaller: int
    note: str = ""
    doubt: str = ""


def compare_scores(
    first: Sequence[float], second: Sequence[float], bootstrap: Bootstrap = Bootstrap()
) -> PairedComparison:
    """Compare two scores of each case.

    Args:
        first: Score of each case by the first method, ``(N,)``.
        second: Score of each case by the second, in the same order.
        bootstrap: How the interval of the mean difference is found.

    Returns:
        The comparison of second with first. Without a finite pair its numbers are NaN.

    Raises:
        ValueError: If the two differ in length.
    """
    differences = differences_of(first, second)
    left_out = len(first) - len(differences)
    if not len(differences):
        nan = math.nan
        return PairedComparison(0, left_out, nan, nan, nan, nan, nan, 0, 0, 0, "no case has both scores")
    larger, smaller = int((differences > 0).sum()), int((differences < 0).sum())
    low, high = bootstrap.interval(differences)
    return PairedComparison(
        cases=len(differences),
        left_out=left_out,
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=wilcoxon(differences),
        effect=rank_biserial(differences),
        larger=larger,
        equal=len(differences) - larger - smaller,
        smaller=smaller,
        note=note_on(larger + smaller),
        doubt=doubt_of(len(differences), low, high),
    )


def note_on(differing: int) -> str:
    """Return what a reader must know of a test of signs or ranks where few cases differ; empty where enough do."""
    return ALL_EQUAL if not differing else TOO_FEW if differing < FEWEST else ""


def doubt_of(cases: int, low: float, high: float, noun: str = "cases") -> str:
    """Return why an interval bears no verdict; empty where it does.

    The resamples of few cases spread too little. Where every case differs by the same amount, as between two networks
    that predict only background, they do not spread at all, whatever the next case would show.

    Args:
        cases: Number of cases that it was drawn from.
        low: Lower end of the interval.
        high: Upper end of the interval.
        noun: What is counted.
    """
    if cases < FEWEST_JUDGED:
        first, _, rest = noun.partition(" ")
        counted = first.removesuffix("s") if cases == 1 else first
        return f"{' '.join(filter(None, (str(cases), counted, rest)))}, a verdict takes {FEWEST_JUDGED}"
    return "" if low < high else "the interval has no width"


def differences_of(first: Sequence[float], second: Sequence[float]) -> np.ndarray:
    """Return second minus first ``(N,)`` of the pairs that are finite, rounded to 12 decimals so that ties are ties.

    Raises:
        ValueError: If the two differ in length.
    """
    pairs = np.stack([np.asarray(first, np.float64), np.asarray(second, np.float64)])
    pairs = pairs[:, np.isfinite(pairs).all(0)]
    return np.round(pairs[1] - pairs[0], _DECIMALS)


def wilcoxon(differences: np.ndarray) -> float:
    """Return the p value of the two-sided Wilcoxon signed-rank test.

    Differences of 0 are dropped, as Wilcoxon (1945) did and SciPy does unless told otherwise. Up to 50 of the others
    the distribution of the rank sum under random signs is counted out, with mean ranks for ties, so that the p value
    is exact; beyond, it is approximated by a normal distribution with the variance corrected for ties and no
    correction for continuity. Without a difference p is 1.

    Args:
        differences: ``(N,)``, finite.
    """
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0
    ranks, ties = mean_ranks(np.abs(nonzero))
    positive = float(ranks[nonzero > 0].sum())
    if len(nonzero) <= _EXACT:
        return _exact_p(ranks, positive)
    count = len(nonzero)
    variance = count * (count + 1) * (2 * count + 1) / 24 - float((ties**3 - ties).sum()) / 48
    return math.erfc(abs(positive - count * (count + 1) / 4) / math.sqrt(2 * variance))


def rank_biserial(differences: np.ndarray) -> float:
    """Return the matched-pairs rank-biserial correlation (Kerby 2014): the share of ranks for minus that against.

    Args:
        differences: ``(N,)``, finite; those of 0 are dropped.

    Returns:
        1 where every difference is positive, -1 where every one is negative, 0 without a difference.
    """
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 0.0
    ranks, _ = mean_ranks(np.abs(nonzero))
    return float((ranks * np.sign(nonzero)).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for making several tests (Holm 1979).

    Args:
        p_values: One for each test; NaN marks a test that was not made and does not count.

    Returns:
        The adjusted values in the same order, at most 1.
    """
    adjusted = list(p_values)
    order = sorted((index for index, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for place, index in enumerate(order):
        largest = max(largest, (len(order) - place) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def mcnemar(gained: int, lost: int) -> float:
    """Return the p value of McNemar's exact two-sided test: a fair coin for each case on which two methods differ.

    Args:
        gained: Cases that only the second method gets right.
        lost: Cases that only the first method gets right.
    """
    count, fewer = gained + lost, min(gained, lost)
    return min(1.0, 2 * sum(math.comb(count, k) for k in range(fewer + 1)) / 2**count)


def is_non_inferior(pair: PairedComparison, margin: float, higher_is_better: bool) -> bool:
    """Tell whether the second method is no worse than the first by a margin or more.

    It is where the end of the interval on the bad side lies within the margin.

    Args:
        pair: The comparison.
        margin: Largest difference that would not matter, in the unit of the score.
        higher_is_better: Whether a larger score is better.
    """
    return pair.low > -margin if higher_is_better else pair.high < margin


def mean_ranks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each value ``(N,)``, counted from 1, and how often each distinct value occurs.

    Args:
        values: ``(N,)``; equal ones share the mean of their ranks.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse], counts


def _exact_p(ranks: np.ndarray, positive: float) -> float:
    """Count the choices of signs whose rank sum is as extreme; twice a mean rank is a whole number."""
    doubled = np.rint(2 * ranks).astype(int)
    ways = np.zeros(doubled.sum() + 1)  # float64 holds up to 2^50 ways exactly
    ways[0] = 1
    for rank in doubled:
        ways[rank:] += ways[:-rank].copy()
    found = round(2 * positive)
    tail = min(ways[: found + 1].sum(), ways[found:].sum())
    return min(1.0, float(2 * tail / ways.sum()))
