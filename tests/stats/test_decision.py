"""The verdict of a ratio: what it promises, simulated, beside the two rules it was chosen over."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.core import Estimate, Verdict
from ds4bench.stats.decision import (
    FAIL_LEVEL,
    PASS_LEVEL,
    Direction,
    Spread,
    levels,
    repeats_to_decide,
    under_twice_the_noise,
    verdict_of_ratio,
)
from ds4bench.stats.ratio import ratio_estimate

PROMOTIONS = 40_000


def estimate(ratio: float, noise: float = 0.02, session: float = 0.01, ours: int = 5, theirs: int = 5) -> Estimate:
    """As ``ratio.py`` makes it, with Student's t for the bootstrap."""
    half = Spread(noise, ours, theirs, session).half_width(PASS_LEVEL)
    return Estimate(
        ratio=ratio,
        low=ratio * math.exp(-half),
        high=ratio * math.exp(half),
        noise_cv=noise,
        candidate=ratio,
        baseline=1.0,
        candidate_repeats=ours,
        baseline_repeats=theirs,
    )


def fail_rates(slowdown: float, repeats: int, noise: float = 0.02, session: float = 0.01) -> tuple[float, float, float]:
    """Rates of FAIL at margin 5 %: this rule, "good end beyond the margin", "good end beyond 1 and point beyond"."""
    rng, margin = np.random.default_rng(1), math.log1p(0.05)
    spread = Spread(noise, repeats, repeats, session)
    found = np.sqrt(rng.chisquare(spread.df, PROMOTIONS) / spread.df)
    seen = rng.normal(math.log1p(slowdown), spread.error, PROMOTIONS)

    def width(level: float) -> np.ndarray:
        t, z = spread_quantiles(spread.df, level)
        return np.hypot(t * spread.repeat_error * found, z * spread.session_error)

    ours = (seen > margin) & (seen > width(FAIL_LEVEL))
    return (
        float(ours.mean()),
        float((seen - width(0.05) > margin).mean()),
        float(((seen > margin) & (seen > width(0.05))).mean()),
    )


def spread_quantiles(df: int, level: float) -> tuple[float, float]:
    from scipy import stats

    return -float(stats.t.ppf(level, df)), -float(stats.norm.ppf(level))


@pytest.mark.parametrize("repeats", [4, 5])
def test_a_true_ten_percent_fails_in_95_of_100_at_noise_2_and_session_1_percent(repeats: int) -> None:
    ours, beyond_margin, _ = fail_rates(0.10, repeats)
    assert ours >= 0.95
    assert beyond_margin < 0.80  # the rule that this one replaces


@pytest.mark.parametrize("noise", [0.01, 0.02, 0.05, 0.2])
@pytest.mark.parametrize("repeats", [3, 5])
def test_an_unchanged_build_fails_in_at_most_one_of_100_at_any_noise(noise: float, repeats: int) -> None:
    assert fail_rates(0.0, repeats, noise)[0] <= 0.011


def test_the_rules_it_replaces_fail_unchanged_builds_when_noise_is_far_above_the_margin() -> None:
    _, beyond_margin, beyond_one = fail_rates(0.0, 3, noise=0.2)
    assert beyond_margin > 0.02
    assert beyond_one > 0.04


def test_real_intervals_give_the_promised_rates() -> None:
    rng = np.random.default_rng(8)
    verdicts: dict[float, list[Verdict]] = {0.0: [], 0.05: [], 0.10: []}
    for slowdown, _ in itertools.product(verdicts, range(500)):
        sessions = rng.normal(0, 0.01, (2, 1, 1))
        ours, theirs = np.exp(rng.normal(0, 0.02, (2, 5, 1)) + sessions)
        made = ratio_estimate(ours * (1 + slowdown), theirs, session_cv=0.01, resamples=500)
        verdicts[slowdown].append(verdict_of_ratio(made, 0.05, session_cv=0.01).verdict)
    rate = {s: {v: found.count(v) / 500 for v in Verdict} for s, found in verdicts.items()}
    assert rate[0.0][Verdict.FAIL] <= 0.014
    assert rate[0.0][Verdict.PASS] > 0.7
    assert rate[0.05][Verdict.PASS] <= 0.07
    assert rate[0.10][Verdict.FAIL] >= 0.95
    assert rate[0.10][Verdict.PASS] == 0


ratios = st.floats(0.5, 2)
noises = st.floats(0.001, 0.3)


@given(ratios, noises, st.floats(0, 0.03), st.integers(2, 9), st.floats(0.01, 0.3))
@settings(deadline=None)
def test_direction_is_only_a_sign(ratio: float, noise: float, session: float, repeats: int, margin: float) -> None:
    one = verdict_of_ratio(estimate(ratio, noise, session, repeats), margin, session_cv=session)
    made = estimate(1 / ratio, noise, session, repeats)
    other = verdict_of_ratio(made, margin, session_cv=session, direction="higher_is_better")
    assert one.p_no_worse == pytest.approx(other.p_no_worse, abs=1e-9)
    assert one.times_worse == pytest.approx(other.times_worse)
    near = min(
        abs(one.p_no_worse - FAIL_LEVEL), abs(one.p_beyond_margin - PASS_LEVEL), abs(one.times_worse - 1 - margin)
    )
    assert near < 1e-6 or one.verdict is other.verdict


@given(ratios, st.floats(1.0, 1.2), noises)
@settings(deadline=None)
def test_slower_is_never_judged_better(ratio: float, factor: float, noise: float) -> None:
    order = [Verdict.PASS, Verdict.INCONCLUSIVE, Verdict.FAIL]
    one, other = (verdict_of_ratio(estimate(r, noise), 0.05, session_cv=0.01) for r in (ratio, ratio * factor))
    assert order.index(one.verdict) <= order.index(other.verdict)
    assert other.p_no_worse <= one.p_no_worse + 1e-12


@given(st.floats(0, 0.3), noises, st.floats(0, 0.03))
@settings(deadline=None)
def test_p_value_is_the_level_at_which_the_interval_ends_there(distance: float, noise: float, session: float) -> None:
    spread = Spread(noise, 3, 4, session)
    p = spread.p_value(distance)
    assert 0 <= p <= 0.5 + 1e-12
    assert spread.p_value(-distance) == pytest.approx(1 - p)
    if p > 1e-9:
        assert spread.half_width(p) == pytest.approx(distance, abs=1e-6)


def test_a_small_real_change_inside_the_margin_does_not_fail() -> None:
    decision = verdict_of_ratio(estimate(1.03, noise=0.002, session=0.001), 0.05, session_cv=0.001)
    assert decision.verdict is Verdict.PASS
    assert decision.p_no_worse < 0.001


def test_a_large_change_that_noise_explains_is_inconclusive() -> None:
    assert verdict_of_ratio(estimate(1.15, noise=0.2), 0.05, session_cv=0.01).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("ratio", [1.02, 1.06, 1.07])
@pytest.mark.parametrize("direction", ["lower_is_better", "higher_is_better"])
def test_the_number_that_would_decide_does_and_one_less_does_not(ratio: float, direction: Direction) -> None:
    worse = ratio if direction == "lower_is_better" else 1 / ratio
    made = estimate(worse, noise=0.05, session=0.003, ours=3, theirs=40)
    needed = repeats_to_decide(made, 0.05, session_cv=0.003, direction=direction)
    assert needed is not None
    for count, decided in ((needed, True), (needed - 1, False)):
        again = estimate(worse, noise=0.05, session=0.003, ours=count, theirs=40)
        verdict = verdict_of_ratio(again, 0.05, session_cv=0.003, direction=direction).verdict
        assert (verdict is not Verdict.INCONCLUSIVE) == decided


def test_at_the_margin_no_number_decides_and_a_new_baseline_may_be_what_is_missing() -> None:
    assert repeats_to_decide(estimate(1.0499, theirs=8), 0.05, session_cv=0.01) is None
    made = estimate(1.02, noise=0.03, session=0.002, ours=3, theirs=2)
    assert repeats_to_decide(made, 0.05, session_cv=0.002) is None
    assert repeats_to_decide(made, 0.05, session_cv=0.002, new_baseline=True) is not None


def test_no_noise_at_all() -> None:
    assert verdict_of_ratio(estimate(1.0, 0, 0), 0.05, session_cv=0).verdict is Verdict.PASS
    assert verdict_of_ratio(estimate(1.06, 0, 0), 0.05, session_cv=0).verdict is Verdict.FAIL


def test_an_extension_halves_the_levels() -> None:
    two = levels(2)
    assert (two.pass_level, two.fail_level, two.confidence) == (0.025, 0.005, 0.95)
    with pytest.raises(ValueError, match="at least one look"):
        levels(0)
    with pytest.raises(ValueError, match="margin"):
        verdict_of_ratio(estimate(1.0), -0.1, session_cv=0.01)


@pytest.mark.parametrize(
    ("runs", "noise", "expected"),
    [(5, 0.049, False), (5, 0.051, True), (3, 0.051, True), (3, 0.049, False), (20, 0.099, False), (20, 0.101, True)],
)
def test_a_margin_is_held_to_twice_the_noise_of_five_runs(runs: int, noise: float, expected: bool) -> None:
    assert under_twice_the_noise(0.1, estimate(1.0, noise, ours=runs, theirs=runs)) is expected
    assert under_twice_the_noise(0.1, estimate(1.0, noise, ours=max(runs, 20), theirs=runs)) is expected
