"""Paired statistics against SciPy, closed forms and brute force."""

import itertools
import math
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_pocket.errors import PocketError
from lightning_pocket.metrics import area_under_roc
from lightning_pocket.reports import class_statistics
from lightning_pocket.reports.class_statistics import compare_accuracy, compare_auc
from lightning_pocket.reports.classified import Classified
from lightning_pocket.reports.proportions import paired_interval
from lightning_pocket.reports.statistics import (
    Bootstrap,
    compare_scores,
    holm,
    is_non_inferior,
    mcnemar,
    rank_biserial,
    wilcoxon,
)

checked = settings(deadline=None, derandomize=True, database=None, max_examples=60)
QUICK = Bootstrap(resamples=500)
tied = st.lists(st.integers(-4, 4), min_size=1, max_size=9)


@pytest.fixture(autouse=True)
def silence_is_golden():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def by_counting(differences):
    """P value of the signed-rank test by trying every choice of signs."""
    nonzero = [d for d in differences if d]
    ranks = scipy.stats.rankdata(np.abs(nonzero))
    found = sum(rank for rank, d in zip(ranks, nonzero, strict=True) if d > 0)
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product([0, 1], repeat=len(ranks))]
    tail = min(sum(s <= found for s in sums), sum(s >= found for s in sums))
    return min(1.0, 2 * tail / len(sums))


@checked
@given(tied)
def test_wilcoxon_of_few_cases_is_exact_with_ties_and_zeros(values):
    assert wilcoxon(np.array(values, float)) == pytest.approx(by_counting(values), rel=1e-12)


@pytest.mark.parametrize("count", [6, 25, 50, 51, 131, 369])
def test_wilcoxon_without_ties_is_that_of_scipy(count):
    differences = np.random.default_rng(count).normal(0.2, 1, count)
    method = "exact" if count <= 50 else "asymptotic"
    expected = scipy.stats.wilcoxon(differences, method=method).pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)
    if count <= 50:
        assert wilcoxon(differences) == pytest.approx(scipy.stats.wilcoxon(differences).pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_wilcoxon_of_many_cases_with_ties_and_zeros_is_that_of_scipy(seed):
    differences = np.random.default_rng(seed).integers(-3, 5, 120).astype(float)
    expected = scipy.stats.wilcoxon(differences, zero_method="wilcox", correction=False, method="asymptotic").pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)


def test_25_cases_that_all_improve_have_the_exact_p_value():
    assert wilcoxon(np.arange(1.0, 26)) == pytest.approx(2 / 2**25, rel=1e-12)  # 5.96e-8; the approximation says 1.2e-5


def test_scores_that_are_all_equal_have_a_defined_result():
    found = compare_scores([0.0] * 125, [0.0] * 125)
    assert (found.p, found.effect, found.difference, found.low, found.high) == (1, 0, 0, 0, 0)
    assert (found.larger, found.equal, found.smaller) == (0, 125, 0)
    assert found.note == "both score the same in every case"


@pytest.mark.parametrize(("count", "flagged"), [(1, True), (5, True), (6, False)])
def test_too_few_cases_are_flagged_exactly_where_no_p_value_can_be_small(count, flagged):
    found = compare_scores([0.5] * count, [0.6] * count, QUICK)  # ties among the differences
    assert found.p == pytest.approx(2 / 2**count)
    assert (found.p >= 0.05) is flagged
    assert ("too few cases" in found.note) is flagged


def test_pairs_that_are_not_finite_are_left_out_and_counted():
    found = compare_scores([0.1, math.nan, 0.3, 0.2], [0.2, 0.5, math.inf, 0.2], QUICK)
    assert (found.cases, found.left_out, found.larger, found.equal) == (2, 2, 1, 1)
    assert found.difference == pytest.approx(0.05)
    nothing = compare_scores([math.nan], [0.5])
    assert nothing.cases == 0
    assert math.isnan(nothing.p)
    assert nothing.note == "no case has both scores"


def test_differences_that_only_rounding_sets_apart_are_ties():
    found = compare_scores([0.2, 0.1, 0.0], [0.3, 0.2, 0.1], QUICK)
    assert found.low == found.high == pytest.approx(0.1)


def test_lists_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="shape"):
        compare_scores([1.0], [1.0, 2.0])


@checked
@given(st.lists(st.integers(-9, 9), min_size=1, max_size=12))
def test_rank_biserial_is_the_signed_share_of_ranks(values):
    differences = np.array(values, float)
    effect = rank_biserial(differences)
    assert rank_biserial(-differences) == pytest.approx(-effect)
    nonzero = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(nonzero))
    positive = ranks[nonzero > 0].sum()
    assert effect == pytest.approx(2 * positive / ranks.sum() - 1 if len(nonzero) else 0)


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never less than one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.9])[0] == 1
    assert math.isnan(holm([0.6, math.nan, 0.9])[1])
    assert holm([0.02, math.nan]) == pytest.approx([0.02, math.nan], nan_ok=True)
    assert holm([]) == []


@checked
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(p_values):
    adjusted = holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected = set()
        for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[index] * (len(p_values) - step) > level:
                break
            rejected.add(index)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


def test_the_interval_is_that_of_scipy_up_to_chance():
    values = np.random.default_rng(3).normal(0.01, 0.05, 60)
    low, high = Bootstrap(20_000).interval(values)
    reference = scipy.stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1)
    assert (low, high) == pytest.approx(tuple(reference.confidence_interval), abs=4e-4)
    deviation = values.std() / math.sqrt(60)
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.04)


def test_the_interval_repeats_and_follows_its_settings():
    values = np.random.default_rng(0).normal(size=30)
    assert Bootstrap(400).interval(values) == Bootstrap(400).interval(values)
    assert Bootstrap(400).interval(values) != Bootstrap(400, seed=1).interval(values)
    wide, narrow = (np.diff(Bootstrap(2000, share).interval(values)) for share in (0.99, 0.5))
    assert wide > 2 * narrow


def test_the_interval_covers_every_resample_when_there_are_two_cases():
    """Means of two draws from 0 and 1 are 0, 1/2 or 1 with chances 1/4, 1/2, 1/4."""
    assert Bootstrap(4000, 0.4).interval(np.array([0.0, 1.0])) == (0.5, 0.5)
    assert Bootstrap(4000, 0.6).interval(np.array([0.0, 1.0])) == (0.0, 1.0)


def test_many_cases_are_resampled_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(size=100)
    monkeypatch.setattr("lightning_pocket.reports.statistics._CHUNK", 700)  # seven resamples at a time
    in_parts = Bootstrap(1000).interval(values)
    monkeypatch.undo()
    assert in_parts == pytest.approx(Bootstrap(1000).interval(values), abs=1e-12)


@pytest.mark.parametrize("settings", [{"resamples": 0}, {"confidence": 1.0}, {"confidence": 95.0}, {"seed": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(PocketError, match=f"--{next(iter(settings))}"):
        Bootstrap(**settings)


@pytest.mark.parametrize(
    ("shift", "better", "expected"),
    [(-0.005, True, True), (-0.015, True, False), (0.3, True, True), (0.005, False, True), (0.015, False, False)],
)
def test_no_worse_means_that_the_interval_stays_within_the_margin(shift, better, expected):
    first = np.linspace(0.5, 0.9, 40)
    found = compare_scores(list(first), list(first + shift), QUICK)  # an interval of no width
    assert is_non_inferior(found, 0.01, better) is expected


@checked
@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_binomial_test(gained, lost):
    expected = scipy.stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)


def score_test(gained, lost, count, difference):
    """Statistic of the score test that the chances of gained and lost differ so, the likelihood maximised by search."""

    def surprise(chance):
        cells = [(gained, chance + difference), (lost, chance), (count - gained - lost, 1 - 2 * chance - difference)]
        return -sum(seen * math.log(max(p, 1e-300)) for seen, p in cells if seen)

    lowest, highest = max(0.0, -difference), (1 - difference) / 2
    chance = scipy.optimize.minimize_scalar(surprise, bounds=(lowest, highest), options={"xatol": 1e-12}).x
    return (gained - lost - count * difference) / math.sqrt(count * (2 * chance + difference * (1 - difference)))


@pytest.mark.parametrize(("gained", "lost", "count"), [(12, 2, 50), (2, 12, 50), (0, 3, 16), (40, 20, 160), (5, 5, 11)])
def test_the_interval_of_paired_shares_is_where_the_score_test_stops_rejecting(gained, lost, count):
    low, high = paired_interval(gained, lost, count)
    assert score_test(gained, lost, count, low) == pytest.approx(1.959964, abs=1e-3)
    assert score_test(gained, lost, count, high) == pytest.approx(-1.959964, abs=1e-3)
    assert paired_interval(lost, gained, count) == pytest.approx((-high, -low))
    assert np.diff(paired_interval(gained, lost, count, 0.99)) > high - low


@pytest.mark.parametrize(("count", "half"), [(16, 0.1936), (380, 0.010008), (381, 0.009982)])
def test_images_that_both_get_right_leave_an_interval_with_a_width(count, half):
    z = scipy.stats.norm.ppf(0.975)
    assert paired_interval(0, 0, count) == pytest.approx((-(z**2) / (count + z**2), z**2 / (count + z**2)))
    found = compare_accuracy(*[classified([[1, 0]] * count, [0, 1] * (count // 2) + [0] * (count % 2))] * 2, QUICK)
    assert (found.low, found.high) == pytest.approx((-half, half), rel=1e-3)
    assert (found.difference, found.p, found.effect) == (0, 1, 0)
    assert found.note == "both score the same in every case"
    assert is_non_inferior(found, 0.01, True) is (count == 381)


def test_ten_images_on_either_side_of_each_curve_bear_a_verdict_on_the_auc():
    def doubt(positive, others):
        target = np.repeat([0, 1], [others, positive])
        return compare_auc(noisy(1, target, 2, 2.0), noisy(2, target, 2, 2.0), QUICK).doubt

    assert doubt(9, 60) == doubt(60, 9) == "9 images of a class or of the others, a verdict takes 10"
    assert doubt(10, 60) == doubt(60, 10) == ""
    alike = noisy(1, np.arange(60) % 2, 2, 2.0)
    assert compare_auc(alike, alike, QUICK).doubt == "the interval has no width"


def classified(probability, target):
    probability = np.asarray(probability)
    names = [str(index) for index in range(len(target))]
    return Classified(names, [f"class{k}" for k in range(probability.shape[1])], np.asarray(target), probability)


def noisy(seed, target, classes, noise):
    logits = np.eye(classes)[target] + noise * np.random.default_rng(seed).normal(size=(len(target), classes))
    return classified(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), target)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_difference_of_auc_is_that_of_the_scores(classes):
    target = np.arange(60) % classes
    first, second = noisy(1, target, classes, 0.5), noisy(2, target, classes, 1.5)
    found = compare_auc(first, second, QUICK)
    assert found.difference == pytest.approx(second.scores["auc"] - first.scores["auc"], abs=1e-6)
    assert found.low < found.difference < found.high < 0
    assert math.isnan(found.p)


def test_the_interval_of_the_auc_is_that_of_resampling_one_by_one():
    target = np.arange(50) % 2
    first, second = noisy(1, target, 2, 0.8), noisy(2, target, 2, 1.0)
    found = compare_auc(first, second, Bootstrap(4000))
    random, differences = np.random.default_rng(9), []
    for _ in range(4000):
        drawn = np.concatenate([random.choice(np.flatnonzero(target == k), (target == k).sum()) for k in (0, 1)])
        areas = [area_under_roc(c.probability[drawn, 1], target[drawn] == 1) for c in (first, second)]
        differences.append(areas[1] - areas[0])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=0.015)


def test_each_resample_of_the_auc_is_scored_as_its_images_are(monkeypatch):
    target = np.arange(30) % 3
    first, second = noisy(1, target, 3, 1.0), noisy(2, target, 3, 1.5)
    for cases in (first, second):
        cases.probability[:] = cases.probability.round(1)  # many ties
    monkeypatch.setattr(class_statistics, "_CHUNK", 90)  # three resamples at a time
    resample, seen = class_statistics._resample, {}

    def keep(statistic, *arguments):
        def scored(times):
            found = statistic(times)
            seen.update({tuple(draw): gain for draw, gain in zip(times.T.tolist(), found, strict=True)})
            return found

        return resample(scored, *arguments)

    monkeypatch.setattr(class_statistics, "_resample", keep)
    compare_auc(first, second, Bootstrap(8))
    assert len(seen) == 8
    for times, gain in seen.items():
        assert [sum(times[index::3]) for index in range(3)] == [10, 10, 10]
        drawn = np.repeat(np.arange(30), times)
        areas = [
            np.mean([area_under_roc(cases.probability[drawn, k], target[drawn] == k) for k in range(3)])
            for cases in (first, second)
        ]
        assert gain == pytest.approx(areas[1] - areas[0], abs=1e-12)


def test_many_images_need_little_memory():
    target = np.arange(8000) % 2
    first, second = noisy(1, target, 2, 0.8), noisy(2, target, 2, 1.0)
    tracemalloc.start()
    compare_auc(first, second, Bootstrap(50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # a value for each pair of images of two classes takes 64 MB


def test_the_auc_of_one_class_alone_is_not_defined():
    cases = classified([[0.1, 0.9], [0.2, 0.8]], [1, 1])
    found = compare_auc(cases, cases, QUICK)
    assert math.isnan(found.difference)
    assert found.note == "the AUC is not defined"


def test_accuracies_are_compared_image_by_image():
    target = [0, 0, 0, 0, 1, 1, 1, 1]
    first = classified([[1, 0]] * 4 + [[1, 0]] * 4, target)  # right in the first four
    second = classified([[1, 0]] * 3 + [[0, 1]] * 5, target)  # right in all but the fourth
    found = compare_accuracy(first, second, QUICK)
    assert (found.larger, found.equal, found.smaller) == (4, 3, 1)
    assert found.difference == pytest.approx(3 / 8)
    assert found.p == pytest.approx(2 * (1 + 5) / 2**5)
    assert found.effect == pytest.approx(3 / 5)
