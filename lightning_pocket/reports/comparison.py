"""Which scores of which runs are compared, on which cases, and what comes out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from lightning_pocket.errors import PocketError
from lightning_pocket.types import CASE_METRICS

from .class_statistics import compare_accuracy, compare_auc
from .classified import Classified
from .collect import RunResult, group_of, metric_of
from .statistics import Bootstrap, PairedComparison, compare_scores, holm, is_non_inferior

#: Metrics of a classification that are compared, and how; more is better.
_CLASSIFIED = {"auc": compare_auc, "accuracy": compare_accuracy}
_EXAMPLES = 3


@dataclass(frozen=True)
class Criteria:
    """How runs are compared.

    Args:
        metrics: Metrics, such as ``dice``, or columns, such as ``dice_liver``; none for all that the runs have.
        per_class: Compare each class too, not only the mean over the classes.
        common: Compare the cases that all runs share where they were not tested on the same ones.
        margin: Largest difference of a score between 0 and 1 that would not matter.
        margin_mm: The same for distances, in mm; None for no verdict on them.
        bootstrap: How intervals are found.

    Raises:
        PocketError: If a margin is negative.
    """

    metrics: tuple[str, ...] = ()
    per_class: bool = False
    common: bool = False
    margin: float = 0.01
    margin_mm: float | None = None
    bootstrap: Bootstrap = field(default_factory=Bootstrap)

    def __post_init__(self) -> None:
        for option, margin in (("--margin", self.margin), ("--margin_mm", self.margin_mm)):
            if margin is not None and not margin >= 0:
                raise PocketError(f"{option} {margin}: expected a difference of 0 or more.")


@dataclass(frozen=True)
class Comparison:
    """How one run differs from another in one metric.

    Args:
        name: The run.
        reference: What it is compared with.
        metric: Column of the scores, ``auc`` or ``accuracy``.
        pair: The numbers.
        margin: Largest difference that would not matter; None where there is none for this metric.
        p_holm: Holm's adjustment of ``pair.p`` for all tests of the table; NaN where there is no test.
    """

    name: str
    reference: str
    metric: str
    pair: PairedComparison
    margin: float | None
    p_holm: float = math.nan

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return CASE_METRICS[metric_of(self.metric) or "dice"] if self.metric not in _CLASSIFIED else True

    @property
    def better(self) -> int:
        """Cases in which the run is better."""
        return self.pair.larger if self.higher_is_better else self.pair.smaller

    @property
    def worse(self) -> int:
        """Cases in which it is worse."""
        return self.pair.smaller if self.higher_is_better else self.pair.larger

    @property
    def non_inferior(self) -> bool | None:
        """Whether it is no worse within the margin; None without a margin, a comparison or enough evidence."""
        if self.margin is None or math.isnan(self.pair.low) or self.pair.doubt:
            return None
        return is_non_inferior(self.pair, self.margin, self.higher_is_better)

    @property
    def is_worse(self) -> bool:
        """Whether it is shown to be worse by the margin or more."""
        margin, pair = self.margin or 0.0, self.pair
        beyond = pair.high <= -margin if self.higher_is_better else pair.low >= margin
        return self.non_inferior is False and beyond

    @property
    def doubt(self) -> str:
        """Why there is no verdict although there is a margin; empty where there is one."""
        return "" if self.margin is None else self.pair.doubt


def on_same_cases(results: Sequence[RunResult], common: bool = False) -> tuple[list[RunResult], str]:
    """Return runs with the scores of the same cases, in the same order.

    Args:
        results: The runs; those that were not tested pass through.
        common: Keep the cases that all tested runs share instead of refusing sets that differ.

    Returns:
        The runs, and a sentence about the cases that were left out; empty where none was.

    Raises:
        PocketError: If the sets differ and ``common`` is not given, if nothing is common, or a case occurs twice.
    """
    tested = [result for result in results if result.subjects]
    for result in tested:
        twice = [subject for subject, count in Counter(result.subjects).items() if count > 1]
        if twice:
            raise PocketError(f"{result.path}: case {twice[0]!r} was tested twice. Run `pocket test` again.")
    if not tested:
        return list(results), ""
    shared = set.intersection(*(set(result.subjects) for result in tested))
    if any(len(result.subjects) > len(shared) for result in tested):
        if not common or not shared:
            raise PocketError(_difference(tested, len(shared)))
        counts = ", ".join(f"{len(result.subjects)} of {result.name}" for result in tested)
        noun = "case" if len(shared) == 1 else "cases"
        note = f"Compared on the {len(shared)} {noun} that all runs share, of {counts}."
    else:
        note = ""
    order = [subject for subject in tested[0].subjects if subject in shared]
    return [_restrict(result, order) if result.subjects else result for result in results], note


def compare_runs(results: Sequence[RunResult], criteria: Criteria) -> list[Comparison]:
    """Compare each tested run with the first tested one.

    Args:
        results: Runs with the scores of the same cases; see :func:`on_same_cases`.
        criteria: What is compared, and how.

    Raises:
        PocketError: If no run has a metric that is asked for.
    """
    tested = [result for result in results if result.subjects]
    if len(tested) == 1:
        _require_known(criteria.metrics, [*tested[0].scores, *(_CLASSIFIED if tested[0].classified else ())])
    return compare_pairs([(tested[0], other) for other in tested[1:]], criteria) if tested else []


def compare_pairs(pairs: Sequence[tuple[RunResult, RunResult]], criteria: Criteria) -> list[Comparison]:
    """Compare the second run of each pair with the first; p values are adjusted for all tests together.

    Args:
        pairs: Runs; the two of a pair have the scores of the same cases.
        criteria: What is compared, and how.

    Raises:
        PocketError: If no run has a metric that is asked for.
    """
    found: list[Comparison] = []
    known: dict[str, None] = {}
    for first, second in pairs:
        for metric, pair in _compare(first, second, criteria, known):
            found.append(Comparison(second.name, first.name, metric, pair, _margin(metric, criteria)))
    if pairs:
        _require_known(criteria.metrics, known)
    adjusted = holm([comparison.pair.p for comparison in found])
    return [replace(comparison, p_holm=p) for comparison, p in zip(found, adjusted, strict=True)]


def _require_known(wanted: Iterable[str], known: Collection[str]) -> None:
    absent = [metric for metric in wanted if metric not in known]
    if absent:
        raise PocketError(f"--metric {absent[0]}: the runs do not have it. They have {', '.join(known) or 'none'}.")


def columns_of(results: Iterable[RunResult], per_class: bool) -> list[str]:
    """Return the scores of cases that runs have: the means over the classes, then those of each class if asked for.

    Args:
        results: The runs.
        per_class: Whether to give the classes too; a single class is its own mean and is left out.
    """
    columns = list(dict.fromkeys(column for result in results for column in result.scores))
    single = sum(metric_of(column) == "dice" for column in columns) == 2
    means = [column for column in columns if column in CASE_METRICS or column in _CLASSIFIED]
    return means + [c for c in columns if c not in CASE_METRICS and metric_of(c) and per_class and not single]


def _compare(
    first: RunResult, second: RunResult, criteria: Criteria, known: dict[str, None]
) -> list[tuple[str, PairedComparison]]:
    """Compare two runs in the metrics that both have, and note in ``known`` what could be asked for."""
    columns = [c for c in first.scores if c in second.scores and (metric_of(c) or c in _CLASSIFIED)]
    known.update(dict.fromkeys(columns))
    wanted = criteria.metrics
    by_default = columns_of([first], criteria.per_class)
    of_asked = [c for c in columns if c in wanted or (c in by_default and (not wanted or metric_of(c) in wanted))]
    found = []
    for column, same in _without_repeated(of_asked, first.repeated.items() & second.repeated.items()).items():
        pair = compare_scores(first.scores[column], second.scores[column], criteria.bootstrap)
        note = "; ".join(filter(None, (pair.note, f"the same as {' and '.join(same)}" if same else "")))
        found.append((column, replace(pair, note=note)))
    one, other = first.classified, second.classified
    if one is not None and other is not None:
        _require_same_truth(first, second, one, other)
        known.update(dict.fromkeys(_CLASSIFIED))
        for metric, compare in _CLASSIFIED.items():
            if not wanted or metric in wanted:
                found.append((metric, compare(one, other, criteria.bootstrap)))
    return found


def _without_repeated(columns: Sequence[str], repeated: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the columns to compare, and the classes or regions of left out ones that would be the same test again."""
    earlier = dict(repeated)
    found: dict[str, list[str]] = {}
    for column in columns:
        name = group_of(column)
        twin = f"{metric_of(column)}_{earlier.get(name)}"
        if name in earlier and twin in found:
            found[twin].append(name)
        else:
            found[column] = []
    return found


def _require_same_truth(first: RunResult, second: RunResult, one: Classified, other: Classified) -> None:
    if one.classes != other.classes:
        raise PocketError(
            f"{first.name} tells {', '.join(one.classes)}, {second.name} {', '.join(other.classes)}: compare runs of "
            "the same classes."
        )
    differs = np.flatnonzero(one.target != other.target)
    if len(differs):
        raise PocketError(
            f"{first.name} and {second.name}: the true class of {len(differs)} cases differs, such as "
            f"{one.subjects[differs[0]]!r}. Test both on the same prepared data."
        )


def _margin(metric: str, criteria: Criteria) -> float | None:
    return criteria.margin_mm if (metric_of(metric) or "").endswith(("_mm", "_px")) else criteria.margin


def _restrict(result: RunResult, subjects: list[str]) -> RunResult:
    place = {subject: index for index, subject in enumerate(result.subjects)}
    chosen = [place[subject] for subject in subjects]
    scores = {column: [values[index] for index in chosen] for column, values in result.scores.items()}
    cases = result.classified
    if cases is not None:
        cases = replace(cases, subjects=subjects, target=cases.target[chosen], probability=cases.probability[chosen])
    return replace(result, subjects=subjects, scores=scores, classified=cases)


def _difference(tested: Sequence[RunResult], shared: int) -> str:
    """Return what is wrong with the cases of the first run that differs from the first."""
    first = tested[0]
    other = next(result for result in tested if set(result.subjects) != set(first.subjects))
    clauses = []
    for one, two in ((first, other), (other, first)):
        only = sorted(set(one.subjects) - set(two.subjects))
        if only:
            named = ", ".join(map(repr, only[:_EXAMPLES])) + (", ..." if len(only) > _EXAMPLES else "")
            clauses.append(f"{len(only)} only in {one.name} ({named})")
    remedy = f", or compare the {shared} that all share with --common" if shared else ": they share none"
    return (
        f"{first.name} and {other.name} were not tested on the same cases: {'; '.join(clauses)}. Test them with the "
        f"same split{remedy}."
    )
