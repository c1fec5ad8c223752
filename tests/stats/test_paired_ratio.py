"""Pairs of repeats: drift cancels, the interval is Student's, the verdict knows that pairs have n - 1 degrees of freedom."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from ds4bench.core import Verdict
from ds4bench.stats.decision import Spread, verdict_of_ratio
from ds4bench.stats.paired_ratio import paired_ratio
from ds4bench.stats.ratio import ratio_estimate

RNG = np.random.default_rng(11)


def test_the_interval_is_that_of_scipys_paired_t_test() -> None:
    ours, theirs = np.exp(RNG.normal(0.05, 0.02, (6, 1))), np.exp(RNG.normal(0, 0.02, (6, 1)))
    estimate = paired_ratio(ours, theirs, session_cv=0.0)
    test = ttest_rel(np.log(ours[:, 0]), np.log(theirs[:, 0]))
    low, high = test.confidence_interval(0.90)
    assert estimate.ratio == pytest.approx(math.exp(np.log(ours / theirs).mean()))
    assert (estimate.low, estimate.high) == pytest.approx((math.exp(low), math.exp(high)))
    decision = verdict_of_ratio(estimate, 0.01, session_cv=0.0)
    one_sided = test.pvalue / 2 if test.statistic > 0 else 1 - test.pvalue / 2
    assert decision.p_no_worse == pytest.approx(one_sided, rel=1e-4)


def test_a_drift_that_both_sides_share_cancels() -> None:
    drift = np.exp(np.linspace(0, 0.5, 5))[:, None]
    noise = np.exp(RNG.normal(0, 0.003, (5, 3)))
    ours, theirs = 1.2 * drift * noise, drift * np.ones((5, 3))
    paired = paired_ratio(ours, theirs, session_cv=0.0)
    apart = ratio_estimate(ours, theirs, session_cv=0.0)
    assert verdict_of_ratio(paired, 0.1, session_cv=0.0).verdict is Verdict.FAIL
    assert verdict_of_ratio(apart, 0.1, session_cv=0.0).verdict is not Verdict.FAIL
    assert paired.noise_cv < 0.01 < apart.noise_cv


def test_an_unchanged_build_is_blamed_in_at_most_one_of_a_hundred_whatever_its_noise() -> None:
    failed = passed_worse = 0
    for _ in range(2000):
        ours, theirs = np.exp(RNG.normal(0, 0.3, (4, 1))), np.exp(RNG.normal(0, 0.3, (4, 1)))
        failed += verdict_of_ratio(paired_ratio(ours, theirs, session_cv=0), 0.02, session_cv=0).verdict is Verdict.FAIL
        worse = paired_ratio(1.1 * np.exp(RNG.normal(0, 0.03, (4, 1))), np.ones((4, 1)), session_cv=0)
        passed_worse += verdict_of_ratio(worse, 0.1, session_cv=0).verdict is Verdict.PASS
    assert failed <= 31  # 1 % and three standard deviations
    assert passed_worse <= 130  # 5 %


def test_pairs_have_fewer_degrees_of_freedom_than_two_samples() -> None:
    estimate = paired_ratio(np.ones((5, 1)) * [[1.0]] + 0.01 * RNG.random((5, 1)), np.ones((5, 1)), session_cv=0.0)
    assert estimate.paired
    assert Spread.of(estimate, 0.0).df == 4


@given(st.lists(st.floats(0.1, 10.0), min_size=3, max_size=8), st.floats(0.0, 0.1))
def test_turning_the_sides_turns_the_interval_over(values: list[float], session_cv: float) -> None:
    ours = np.array(values)[:, None]
    theirs = np.ones_like(ours)
    one, other = (paired_ratio(*sides, session_cv=session_cv) for sides in ((ours, theirs), (theirs, ours)))
    assert one.ratio == pytest.approx(1 / other.ratio)
    assert one.low == pytest.approx(1 / other.high)


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ([[1.0]] * 2, [[1.0]] * 2, "2 pairs show no noise"),
        ([[1.0]] * 4, [[1.0]] * 3, "not paired"),
        ([[1.0, 2.0]] * 3, [[1.0]] * 3, "not paired"),
        ([[0.0]] * 3, [[1.0]] * 3, "candidate has values that are not positive"),
        ([[1.0]] * 3, [], "baseline must be an array"),
    ],
)
def test_what_is_no_pair_is_refused(ours: list[list[float]], theirs: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        paired_ratio(ours, theirs, session_cv=0.01)
