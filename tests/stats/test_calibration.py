"""Noise measured from A/A runs: unbiased parts, an upper limit that holds, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.stats.calibration import calibrate, upper_component


def sessions(rng: np.random.Generator, sizes: list[int], session: float, repeat: float) -> list[np.ndarray]:
    return [np.exp(rng.normal(0, session) + rng.normal(0, repeat, size)) for size in sizes]


@pytest.mark.parametrize("sizes", [[3] * 2000, [2, 3, 5, 8] * 500])
def test_both_parts_are_found_in_large_calibrations(sizes: list[int]) -> None:
    found = calibrate(sessions(np.random.default_rng(1), sizes, 0.02, 0.03))
    assert found.session_cv == pytest.approx(0.02, rel=0.08)
    assert found.repeat_cv == pytest.approx(0.03, rel=0.05)
    assert found.session_cv <= found.session_cv_upper < 0.023


@pytest.mark.parametrize("truth", [0.0, 0.005, 0.01, 0.03])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_upper_limit_holds_with_five_sessions_of_three_repeats(truth: float, confidence: float) -> None:
    rng = np.random.default_rng(2)
    below = sum(calibrate(sessions(rng, [3] * 5, truth, 0.02), confidence).session_cv_upper < truth for _ in range(600))
    assert below / 600 <= 1 - confidence + 0.035
    assert truth < 0.03 or below / 600 >= 1 - confidence - 0.05


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.lists(st.integers(2, 6), min_size=3, max_size=6))
@settings(deadline=None, max_examples=40)
def test_unit_and_order_do_not_matter(seed: int, unit: float, sizes: list[int]) -> None:
    runs = sessions(np.random.default_rng(seed), sizes, 0.02, 0.02)
    one, other = calibrate(runs), calibrate([run[::-1] * unit for run in reversed(runs)])
    assert one.repeat_cv == pytest.approx(other.repeat_cv)
    assert one.session_cv_upper == pytest.approx(other.session_cv_upper, abs=1e-9)
    assert one.session_cv <= one.session_cv_upper + 1e-12


def test_balanced_parts_are_the_analysis_of_variance() -> None:
    from scipy import stats

    runs = sessions(np.random.default_rng(3), [4] * 6, 0.05, 0.02)
    found = calibrate(runs)
    f = stats.f_oneway(*[np.log(run) for run in runs]).statistic
    assert 1 + 4 * found.session_cv**2 / found.repeat_cv**2 == pytest.approx(f)


def test_strata_are_averaged_before_the_spread() -> None:
    flat = calibrate([[1.0, 1.1], [1.2, 1.3], [1.0, 1.2]])
    table = calibrate([[[v / 2, v * 2] for v in run] for run in ([1.0, 1.1], [1.2, 1.3], [1.0, 1.2])])
    assert flat.session_cv == pytest.approx(table.session_cv)


def test_a_higher_confidence_is_a_higher_limit_and_no_difference_is_zero() -> None:
    limits = [upper_component(2.0, 4, 1.0, 10, c) for c in (0.6, 0.8, 0.95)]
    assert limits == sorted(limits)
    quiet = calibrate([[1.0, 1.0]] * 4)
    assert (quiet.repeat_cv, quiet.session_cv, quiet.session_cv_upper) == (0, 0, 0)
    assert math.isfinite(quiet.repeats)
    assert "over 4 sessions of one build" in quiet.sentence


@pytest.mark.parametrize(
    ("runs", "confidence", "why"),
    [
        ([[1.0, 1.0]] * 2, 0.8, "at least 3"),
        ([[1.0]] * 3, 0.8, "at least 2 repeats"),
        ([[1.0, -1.0]] * 3, 0.8, "positive"),
        ([[1.0, 1.0]] * 3, 1.0, "confidence"),
        ([[]] * 3, 0.8, "not empty"),
    ],
)
def test_runs_that_show_no_noise_are_refused(runs: list[list[float]], confidence: float, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        calibrate(runs, confidence)
