"""Simulated promotions: the noise put in is the noise drawn, and the verdict rates are the promised ones."""

from __future__ import annotations

import numpy as np
import pytest

from ds4bench.stats.decision import Spread
from ds4bench.stats.sequential import Plan
from ds4bench.stats.simulate import RatioRule, Source, simulate_ratio, simulate_sequence
from tests.stats.powers import fail_power, pass_power


def stored(repeats: int = 12, strata: int = 10, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.linspace(1, 4, strata) * np.exp(
        rng.normal(0, 0.02, (repeats, 1)) + rng.normal(0, 0.03, (repeats, strata))
    )


def test_drawn_repeats_have_the_level_and_the_noise_of_the_run() -> None:
    run = stored()
    draws = Source.of_run(run).draw(4000, 3, np.random.default_rng(1))
    assert np.exp(draws.mean(axis=(0, 1))) == pytest.approx(np.exp(np.log(run).mean(axis=0)), rel=0.01)
    assert draws.mean(axis=2).std() == pytest.approx(np.log(run).mean(axis=1).std(ddof=1), rel=0.05)


def test_noise_can_be_set() -> None:
    draws = Source.of_run(stored(), noise_cv=0.05).draw(4000, 3, np.random.default_rng(1))
    assert draws.mean(axis=2).std() == pytest.approx(0.05, rel=0.05)


def test_rates_are_those_that_the_power_formulas_give() -> None:
    source, rule = Source.of_run(stored(40), noise_cv=0.02), RatioRule(margin=0.05, session_cv=0.01)
    spread = Spread(0.02, 5, 5, 0.01)
    for slowdown in (0.0, 0.05, 0.10):
        rates = simulate_ratio(source, rule, slowdown=slowdown, true_session_cv=0.01, promotions=600)
        assert rates.failed == pytest.approx(fail_power(slowdown, 0.05, spread), abs=0.05)
        assert rates.passed == pytest.approx(pass_power(slowdown, 0.05, spread), abs=0.05)
        assert rates.passed + rates.failed + rates.inconclusive == pytest.approx(1)


def test_an_unchanged_build_fails_in_at_most_one_of_100_of_1000_promotions() -> None:
    for noise in (0.01, 0.03, 0.1):
        rates = simulate_ratio(
            Source.of_run(stored(), noise), RatioRule(0.05, 0.01), true_session_cv=0.01, promotions=1000, seed=3
        )
        assert rates.failed <= 0.015


def test_a_throughput_that_falls_is_judged_like_a_time_that_rises() -> None:
    rule = RatioRule(0.05, 0.01, direction="higher_is_better")
    rates = simulate_ratio(Source.of_run(stored(), 0.02), rule, slowdown=0.2, promotions=200)
    assert rates.failed == 1


def test_an_extension_decides_more_often_and_keeps_the_false_fails_rare() -> None:
    source = Source.of_run(stored(), 0.02)
    once = simulate_ratio(source, RatioRule(0.05, 0.005, 3, 8), promotions=500)
    twice = simulate_ratio(source, RatioRule(0.05, 0.005, 3, 8, extension=5), promotions=500)
    assert twice.inconclusive < once.inconclusive
    assert twice.failed <= 0.01
    assert 3 < twice.mean_size < 8


def test_the_same_seed_gives_the_same_rates() -> None:
    source, rule = Source.of_run(stored()), RatioRule(0.03, 0.01)
    one, two, other = (simulate_ratio(source, rule, promotions=100, slowdown=0.03, seed=s) for s in (1, 1, 2))
    assert one == two
    assert one != other


def test_sequential_promotions_of_stored_answers() -> None:
    answers = np.random.default_rng(4).random(1319) < 0.955
    same = simulate_sequence(answers, Plan(), flips=0.02, promotions=100)
    worse = simulate_sequence(answers, Plan(), flips=0.02, loss=0.05, promotions=60)
    assert same.passed >= 0.88
    assert same.failed <= 0.02
    assert worse.failed >= 0.97
    assert worse.mean_size < 500 < same.mean_size < 1000


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: Source.of_run([[1.0, 2.0]]), "at least 2 repeats"),
        (lambda: Source.of_run([[1.0], [0.0]]), "positive"),
        (lambda: Source.of_run([[1.0], [1.0]], 0.02), "without any noise"),
        (lambda: simulate_sequence([True], Plan(), flips=0.0), "not the budget"),
        (lambda: simulate_sequence([True] * 1319, Plan(), flips=0.1), "too few"),
    ],
)
def test_a_source_that_cannot_be_drawn_from_is_refused(call, why: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=why):
        call()
