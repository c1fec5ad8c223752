"""The two-level interval: coverage with three repeats, and what it adds to ratio.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.stats.ratio import ratio_estimate, session_half_width
from ds4bench.stats.two_level import components, logs, two_level_ratio


def side(rng: np.random.Generator, sizes: list[int], repeat: float, request: float) -> list[np.ndarray]:
    return [np.exp(rng.normal(0, repeat) + rng.normal(0, request, size)) for size in sizes]


sizes = st.lists(st.integers(1, 9), min_size=2, max_size=4)


@given(sizes, sizes, st.integers(0, 2**32 - 1), st.floats(0.1, 10))
@settings(max_examples=40, deadline=None)
def test_interval_is_symmetric_and_free_of_the_unit(ours: list[int], theirs: list[int], seed: int, unit: float) -> None:
    rng = np.random.default_rng(seed)
    a, b = side(rng, ours, 0.02, 0.05), side(rng, theirs, 0.02, 0.05)
    one = two_level_ratio(a, b, session_cv=0.01, resamples=300)
    other = two_level_ratio([x * unit for x in a], [x * unit for x in b], session_cv=0.01, resamples=300)
    assert one.low < one.ratio < one.high
    assert math.isclose(one.low * one.high, one.ratio**2, rel_tol=1e-9)
    assert math.isclose(one.high, other.high, rel_tol=1e-6)


@pytest.mark.parametrize(("repeat", "request_sd"), [(0.02, 0.0), (0.02, 0.06), (0.0, 0.06)])
def test_bound_misses_the_truth_in_at_most_five_percent_with_three_repeats(repeat: float, request_sd: float) -> None:
    rng = np.random.default_rng(11)
    missed = 0
    for _ in range(800):
        a, b = (side(rng, [6, 9, 12], repeat, request_sd) for _ in range(2))
        missed += two_level_ratio(a, b, session_cv=0.0, resamples=500).high < 1
    assert missed / 800 <= 0.07
    assert missed / 800 >= (0.025 if repeat else 0.0)


def test_agrees_with_the_repeat_level_interval_when_repeats_carry_the_noise() -> None:
    rng = np.random.default_rng(2)
    a, b = side(rng, [40] * 5, 0.05, 0.01), side(rng, [40] * 5, 0.05, 0.01)
    two, one = two_level_ratio(a, b, session_cv=0.01), ratio_estimate(a, b, session_cv=0.01)
    assert math.isclose(two.ratio, one.ratio, rel_tol=1e-12)
    assert math.isclose(math.log(two.high / two.ratio), math.log(one.high / one.ratio), rel_tol=0.05)


def test_repeats_that_agree_by_luck_do_not_make_a_narrow_interval() -> None:
    scatter = np.exp(np.random.default_rng(4).normal(0, 0.2, 8))
    same = [scatter, scatter, scatter]
    assert ratio_estimate(same, same, session_cv=0.0).high == pytest.approx(1)
    estimate = two_level_ratio(same, same, session_cv=0.0)
    assert estimate.high > 1.1
    assert estimate.noise_cv == pytest.approx(np.log(scatter).std(ddof=1) / math.sqrt(8), rel=1e-9)


def test_scatter_is_split_into_repeats_and_requests() -> None:
    rng = np.random.default_rng(6)
    parts = components([logs(side(rng, [10] * 400, 0.03, 0.06), "a"), logs(side(rng, [10] * 400, 0.03, 0.06), "b")])
    assert parts.repeat_sd == pytest.approx(0.03, rel=0.1)
    assert parts.request_sd == pytest.approx(0.06, rel=0.03)
    assert parts.mean_sd == pytest.approx(math.hypot(0.03, 0.06 / math.sqrt(10)), rel=0.1)


def test_session_noise_stays_when_nothing_else_moves() -> None:
    estimate = two_level_ratio([[1.0]] * 3, [[1.0]] * 3, session_cv=0.02)
    assert math.log(estimate.high) == pytest.approx(session_half_width(0.02))


@pytest.mark.parametrize(
    ("ours", "why"), [([[1.0]], "at least 4"), ([[1.0], []] * 2, "at least one request"), ([[0.0]] * 4, "not positive")]
)
def test_repeats_that_have_no_ratio_are_refused(ours: list[list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        two_level_ratio(ours, [[1.0]] * 2, session_cv=0.01)
