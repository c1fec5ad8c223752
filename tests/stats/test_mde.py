"""What a rule can see: against simulation, brute force, and in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.stats.decision import Spread
from ds4bench.stats.mde import (
    minimum_detectable_effect,
    refusal,
    repeats_for,
    sentence,
    show_power,
    with_repeats,
)
from tests.stats.powers import fail_power, pass_power

spreads = st.builds(Spread, st.floats(0.002, 0.1), st.integers(2, 10), st.integers(2, 10), st.floats(0, 0.03))


@pytest.mark.parametrize("spread", [Spread(0.02, 3, 3, 0.0), Spread(0.02, 4, 6, 0.01)])
def test_powers_are_those_of_simulated_promotions(spread: Spread) -> None:
    from scipy import stats

    rng, n = np.random.default_rng(1), 60_000
    found = np.sqrt(rng.chisquare(spread.df, n) / spread.df)
    seen = rng.normal(math.log(1.07), spread.error, n)

    def width(level: float) -> np.ndarray:
        z = stats.norm.isf(level) * spread.session_error
        return np.hypot(stats.t.isf(level, spread.df) * spread.repeat_error * found, z)

    failed = (seen > math.log(1.05)) & (seen > width(0.01))
    assert fail_power(0.07, 0.05, spread) == pytest.approx(failed.mean(), abs=0.008)
    assert show_power(0.07, spread) == pytest.approx((seen > width(0.05)).mean(), abs=0.008)
    assert pass_power(0.07, 0.10, spread) == pytest.approx((seen + width(0.05) <= math.log(1.10)).mean(), abs=0.008)


@given(spreads)
@settings(deadline=None, max_examples=40)
def test_more_repeats_and_less_noise_see_smaller_changes(spread: Spread) -> None:
    effect = minimum_detectable_effect(spread)
    more = with_repeats(spread, spread.candidate_repeats + 2)
    assert minimum_detectable_effect(more) <= effect
    quiet = Spread(spread.noise_cv / 2, spread.candidate_repeats, spread.baseline_repeats, spread.session_cv)
    assert minimum_detectable_effect(quiet) <= effect
    assert minimum_detectable_effect(spread, power=0.95) >= effect


@given(spreads)
@settings(deadline=None, max_examples=40)
def test_the_effect_is_also_the_smallest_margin_that_an_unchanged_build_passes(spread: Spread) -> None:
    effect = minimum_detectable_effect(spread)
    assert math.isfinite(effect)
    assert show_power(effect, spread) == pytest.approx(0.8, abs=1e-3)
    assert pass_power(0.0, effect, spread) == pytest.approx(0.8, abs=1e-3)
    assert refusal(effect * 1.01, spread) is None
    assert refusal(effect * 0.97, spread) is not None


@given(spreads, st.floats(0.02, 0.2))
@settings(deadline=None, max_examples=40)
def test_an_unchanged_build_fails_in_at_most_one_of_100(spread: Spread, margin: float) -> None:
    assert fail_power(0.0, margin, spread) <= 0.0101
    assert pass_power(margin, margin, spread) <= 0.0501


def test_the_default_of_five_repeats_meets_the_asked_power() -> None:
    spread = Spread(0.02, 5, 5, 0.01)
    assert fail_power(0.10, 0.05, spread) >= 0.95
    assert fail_power(0.10, 0.05, with_repeats(spread, 3)) >= 0.95
    assert fail_power(0.10, 0.05, Spread(0.02, 3, 3, 0.01)) < 0.90


@given(spreads, st.floats(0.005, 0.2))
@settings(deadline=None, max_examples=40)
def test_repeats_for_an_effect_are_the_fewest(spread: Spread, effect: float) -> None:
    count = repeats_for(effect, spread, new_baseline=True)
    if count is None:
        assert minimum_detectable_effect(with_repeats(spread, 100, new_baseline=True)) > effect * 0.999
    else:
        assert show_power(effect, with_repeats(spread, count, new_baseline=True)) >= 0.8
        assert count == 1 or show_power(effect, with_repeats(spread, count - 1, new_baseline=True)) < 0.8


def test_the_sentence_a_person_reads() -> None:
    words = sentence(Spread(0.015, 3, 8, 0.002))
    assert words.startswith("with 3 repeats and the baseline's noise this gate can see a change of 2.9 % or more; ")
    assert words.endswith("`--repeats 7` would see 2.2 %")


def test_refusals_say_what_would_help() -> None:
    assert "use `--repeats " in str(refusal(0.03, Spread(0.015, 3, 8, 0.005)))
    assert "in a new baseline" in str(refusal(0.02, Spread(0.02, 3, 3, 0.001)))
    assert "no number of repeats" in str(refusal(0.03, Spread(0.02, 3, 3, 0.02)))
    assert minimum_detectable_effect(Spread(0.02, 1, 1, 0.0)) == math.inf
