"""The sequential verdict: error rates exactly where they are exact, by simulation elsewhere, and what it saves."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.stats.paired import mcnemar_loss
from ds4bench.stats.sequential import Look, Plan, default_looks, examine, examine_floor, spend

ACCURACY = 0.955


def run(rng: np.random.Generator, plan: Plan, lost: float, won: float, accuracy: float = ACCURACY) -> Look:
    """One run: ``lost`` and ``won`` are shares of all items."""
    baseline = rng.random(plan.budget) < accuracy
    chance = rng.random(plan.budget)
    candidate = np.where(baseline, chance >= lost / accuracy, chance < won / (1 - accuracy))
    return examine(candidate, baseline, plan)[-1]


def runs(count: int, plan: Plan, lost: float, won: float, seed: int) -> list[Look]:
    rng = np.random.default_rng(seed)
    return [run(rng, plan, lost, won) for _ in range(count)]


def share(looks: list[Look], decision: str) -> float:
    return Counter(look.decision for look in looks)[decision] / len(looks)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0.001, 0.2), st.floats(0, 1))
def test_spending_rises_from_nothing_to_alpha(t1: float, t2: float, alpha: float, early: float) -> None:
    assert spend(0, alpha, early) == 0
    assert spend(1, alpha, early) == pytest.approx(alpha)
    assert spend(min(t1, t2), alpha, early) <= spend(max(t1, t2), alpha, early) + 1e-15


def test_fleming_type_alone_is_blind_at_the_start() -> None:
    assert spend(60 / 1319, 0.01, 0.0) < 1e-30
    assert spend(60 / 1319, 0.01, 0.3) > 1e-4


def test_false_fail_is_at_most_alpha_over_all_ways_the_coins_can_fall() -> None:
    """Exact: all 2^12 ways in which items that all differ can be lost or won, looked at four times."""
    plan = Plan(looks=(3, 6, 9, 12), floor=None, fail_alpha=0.1, pass_alpha=0.05)
    failed = sum(
        any(look.decision == "fail" for look in examine(np.array(ways) == 0, np.array(ways) == 1, plan))
        for ways in itertools.product((0, 1), repeat=12)
    )
    assert 0.02 < failed / 2**12 <= 0.1


def test_false_pass_is_at_most_alpha_over_all_ways_seven_items_can_go() -> None:
    """Exact for a small plan: all 3^7 ways of lost, same and won, at several flip rates that are not known to it."""
    plan = Plan(looks=(3, 5, 7), margin=0.35, floor=None, pass_alpha=0.2)
    passing = []
    for ways in itertools.product((-1, 0, 1), repeat=7):
        gaps = np.array(ways)
        if examine(gaps >= 0, gaps <= 0, plan)[-1].decision == "pass":
            passing.append((ways.count(-1), ways.count(1)))
    for won in (0.0, 0.05, 0.1, 0.2, 0.3):
        lost, same = won + 0.35, 0.65 - 2 * won
        chance = sum(lost**down * won**up * same ** (7 - down - up) for down, up in passing)
        assert 0.1 < chance <= 0.2


def test_floor_errors_are_at_most_alpha_exactly() -> None:
    plan = Plan(looks=(4, 8, 12), floor=0.7, fail_alpha=0.1, pass_alpha=0.1)
    chance = {"fail": 0.0, "pass": 0.0, "undecided": 0.0}
    for ways in itertools.product((0, 1), repeat=12):
        last = examine_floor(np.array(ways), plan)[-1]
        chance[last.decision] += 0.7 ** sum(ways) * 0.3 ** (12 - sum(ways))
    assert 0.02 < chance["fail"] <= 0.1
    assert 0.005 < chance["pass"] <= 0.1
    assert sum(chance.values()) == pytest.approx(1)


def test_with_a_floor_both_tests_share_the_alpha_in_halves() -> None:
    rng = np.random.default_rng(3)
    baseline, candidate = rng.random(400) < 0.9, rng.random(400) < 0.9
    both = examine(candidate, baseline, Plan(floor=0.8, fail_alpha=0.02))
    paired_alone = examine(candidate, baseline, Plan(floor=None, fail_alpha=0.01))
    floor_alone = examine_floor(candidate, Plan(floor=0.8, fail_alpha=0.01))
    assert len(both) > 5
    assert [look.lost_to_fail for look in both] == [look.lost_to_fail for look in paired_alone[: len(both)]]
    seen = min(len(both), len(floor_alone))
    assert [look.right_to_fail for look in both[:seen]] == [look.right_to_fail for look in floor_alone[:seen]]


def test_one_look_is_the_exact_mcnemar_test() -> None:
    for lost, won in itertools.product(range(12), range(4)):
        baseline, candidate = np.ones(40, bool), np.ones(40, bool)
        candidate[:lost] = False
        baseline[lost : lost + won] = False
        look = examine(candidate, baseline, Plan(looks=(40,), floor=None, fail_alpha=0.05))[-1]
        assert (look.decision == "fail") == (mcnemar_loss(lost, won) <= 0.05 and lost - won > 0.015 * 40)


def test_one_look_without_a_loss_is_the_exact_binomial_test() -> None:
    """No item lost of n has chance (1 - margin)^n: 199 items show 1.5 points at 5 %, 198 do not."""
    for items, decision in ((198, "undecided"), (199, "pass")):
        same = np.ones(items, bool)
        assert examine(same, same, Plan(looks=(items,), floor=None))[-1].decision == decision


@pytest.mark.parametrize("won", [0.0, pytest.param(0.01, marks=pytest.mark.slow)])
def test_a_loss_of_just_the_margin_passes_in_at_most_five_percent(won: float) -> None:
    looks = runs(1000, Plan(floor=None), won + 0.015, won, seed=4)
    assert 0.02 < share(looks, "pass") <= 0.0635  # 0.05 and two standard errors; 2,500 runs gave 0.034 to 0.043


def test_an_unchanged_build_with_2_percent_flips_passes_early_and_hardly_ever_fails() -> None:
    looks = runs(300, Plan(), 0.01, 0.01, seed=5)
    assert share(looks, "pass") >= 0.9
    assert share(looks, "fail") <= 0.01
    assert np.mean([look.items for look in looks]) < 900


def test_a_build_that_answers_the_same_passes_at_400_items() -> None:
    baseline = np.random.default_rng(6).random(1319) < ACCURACY
    assert [(look.items, look.decision) for look in examine(baseline, baseline, Plan())][-1] == (400, "pass")


def test_five_points_worse_fails_in_a_third_of_the_budget() -> None:
    looks = runs(120, Plan(), 0.06, 0.01, seed=7)
    assert share(looks, "fail") >= 0.99
    assert np.mean([look.items for look in looks]) < 500


@pytest.mark.parametrize("floor", [0.92, None])
def test_25_points_worse_is_found_within_60_questions_in_the_median(floor: float | None) -> None:
    looks = runs(150, Plan(floor=floor), 0.26, 0.01, seed=8)
    assert share(looks, "fail") == 1
    assert np.median([look.items for look in looks]) <= 60


def test_a_build_under_the_floor_fails_even_when_the_baseline_was_as_bad() -> None:
    same = np.random.default_rng(9).random(1319) < 0.80
    last = examine(same, same, Plan())[-1]
    assert last.decision == "fail"
    assert "floor" in last.reason
    assert examine(same, same, Plan(floor=None))[-1].decision == "pass"


def test_a_healthy_accuracy_is_shown_to_be_over_the_floor() -> None:
    rng = np.random.default_rng(10)
    looks = [examine_floor(rng.random(1319) < ACCURACY, Plan())[-1] for _ in range(200)]
    assert Counter(look.decision for look in looks)["pass"] >= 190
    assert np.mean([look.items for look in looks]) < 700


@given(st.integers(0, 2**32 - 1), st.integers(0, 500))
@settings(deadline=None, max_examples=25)
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    baseline, candidate = rng.random(500) < 0.9, rng.random(500) < 0.85
    whole, part = examine(candidate, baseline, Plan()), examine(candidate[:cut], baseline[:cut], Plan())
    assert part == whole[: len(part)]
    assert all(look.decision == "continue" for look in whole[:-1])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_one_more_lost_item_never_helps(seed: int) -> None:
    order = ["pass", "continue", "undecided", "fail"]
    rng = np.random.default_rng(seed)
    plan = Plan(looks=(300,), floor=None, fail_alpha=0.05)
    baseline, candidate = rng.random(300) < 0.95, rng.random(300) < 0.94
    worse = candidate.copy()
    both = np.flatnonzero(candidate & baseline)
    worse[both[0]] = False
    one, other = examine(candidate, baseline, plan)[-1], examine(worse, baseline, plan)[-1]
    assert order.index(one.decision) <= order.index(other.decision)


def test_before_the_first_look_nothing_is_said() -> None:
    assert examine([True] * 19, [True] * 19, Plan()) == []
    assert default_looks(200) == (20, 40, 60, 80, 100, 150, 200)
    assert default_looks()[-1] == 1319


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: Plan(looks=(40, 20)), "rising"),
        (lambda: Plan(margin=0), "shares"),
        (lambda: Plan(fail_alpha=0.6), "alpha"),
        (lambda: Plan(early_pass=2), "early"),
        (lambda: examine([True], [True, False], Plan()), "pair up"),
        (lambda: examine([0.5], [1.0], Plan()), "true and false"),
        (lambda: examine([True] * 41, [True] * 41, Plan(looks=(40,))), "budget of 40"),
        (lambda: examine_floor([True], Plan(floor=None)), "no floor"),
        (lambda: examine_floor([True] * 41, Plan(looks=(40,))), "budget of 40"),
    ],
)
def test_a_plan_or_data_that_make_no_sense_are_refused(call, why: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=why):
        call()
