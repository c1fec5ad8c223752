"""The interval of a ratio: what it promises on small samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.stats.ratio import ratio_estimate, session_half_width

tables = st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**32 - 1))


def runs(seed: int, repeats: int, strata: int, cv: float = 0.02) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = np.linspace(0.5, 4.0, strata)
    return level * np.exp(rng.normal(0, cv, (repeats, 1)) + rng.normal(0, cv / 2, (repeats, strata)))


@given(tables)
@settings(max_examples=40, deadline=None)
def test_interval_is_symmetric_in_the_logarithm_and_holds_the_ratio(shape: tuple[int, int, int]) -> None:
    repeats, strata, seed = shape
    estimate = ratio_estimate(runs(seed, repeats, strata), runs(seed + 1, 3, strata), session_cv=0.01, resamples=500)
    assert estimate.low < estimate.ratio < estimate.high
    assert math.isclose(estimate.low * estimate.high, estimate.ratio**2, rel_tol=1e-9)
    assert math.isclose(estimate.ratio, estimate.candidate / estimate.baseline, rel_tol=1e-9)


@given(tables, st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_unit_of_the_metric_does_not_matter(shape: tuple[int, int, int], scale: float) -> None:
    repeats, strata, seed = shape
    ours, theirs = runs(seed, repeats, strata), runs(seed + 1, 3, strata)
    one = ratio_estimate(ours, theirs, session_cv=0.01, resamples=500)
    other = ratio_estimate(ours * scale, theirs * scale, session_cv=0.01, resamples=500)
    assert math.isclose(one.ratio, other.ratio, rel_tol=1e-9)
    assert math.isclose(one.high, other.high, rel_tol=1e-9)


def test_exchanging_the_sides_turns_the_interval_over() -> None:
    ours, theirs = runs(1, 3, 6) * 1.07, runs(2, 3, 6)
    there, back = (ratio_estimate(*pair, session_cv=0.01) for pair in ((ours, theirs), (theirs, ours)))
    assert math.isclose(there.ratio, 1 / back.ratio, rel_tol=1e-9)
    assert math.isclose(there.high, 1 / back.low, rel_tol=0.003)


def test_session_noise_is_a_floor_that_equal_repeats_do_not_break() -> None:
    estimate = ratio_estimate(np.full((3, 2), 1.0), np.full((3, 2), 1.0), session_cv=0.02)
    assert estimate.noise_cv == 0
    assert math.isclose(math.log(estimate.high), session_half_width(0.02), rel_tol=1e-9)
    assert math.isclose(session_half_width(0.02), 1.645 * math.sqrt(2) * 0.02, rel_tol=1e-3)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (5, 3), (1, 3), (8, 8)])
def test_bound_misses_the_truth_in_five_percent_of_small_samples(ours: int, theirs: int) -> None:
    rng = np.random.default_rng(1)
    missed = 0
    for _ in range(1000):
        a, b = np.exp(rng.normal(0, 0.02, (ours, 1))), np.exp(rng.normal(0, 0.02, (theirs, 1)))
        missed += ratio_estimate(a, b, session_cv=0, resamples=2000).high < 1
    assert 0.03 <= missed / 1000 <= 0.07


def test_one_slow_repeat_widens_the_interval_instead_of_shifting_a_tight_one() -> None:
    steady = np.ones((3, 4))
    hiccup = steady.copy()
    hiccup[1] *= 1.3
    estimate = ratio_estimate(hiccup, steady, session_cv=0.01)
    assert estimate.low < 1 < estimate.high


def test_noise_is_the_spread_of_repeats_of_both_sides() -> None:
    estimate = ratio_estimate(runs(3, 200, 1, 0.03), runs(4, 200, 1, 0.03), session_cv=0.5)
    assert math.isclose(estimate.noise_cv, 0.03 * math.hypot(1, 0.5), rel_tol=0.1)


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ([[1.0]], [[1.0]], "at least 4 are needed"),
        ([[1.0, 2.0]] * 3, [[1.0]] * 3, "different strata"),
        ([[0.0]] * 3, [[1.0]] * 3, "not positive"),
        ([[float("nan")]] * 3, [[1.0]] * 3, "not positive and finite"),
        ([], [[1.0]] * 3, r"\[repeats, strata\]"),
    ],
)
def test_values_that_have_no_ratio_are_refused(ours: list[list[float]], theirs: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ratio_estimate(ours, theirs, session_cv=0.01)
