"""Paired answers: against scipy, brute force and published numbers; coverage on small samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ds4bench.stats.paired import (
    PairedCounts,
    constrained_lost,
    detectable_loss,
    mcnemar,
    mcnemar_loss,
    paired_bootstrap,
    paired_counts,
    sign_flip_loss,
    tango_interval,
    tango_z,
)

few = st.integers(0, 40)
tables = st.builds(PairedCounts, st.integers(1, 60), few, few, st.integers(0, 60))


def non_inferiority(counts: PairedCounts, margin: float) -> float:
    """One-sided p of "worse by the margin or more"."""
    return float(stats.norm.cdf(-tango_z(counts, -margin)))


def swapped(counts: PairedCounts) -> PairedCounts:
    return PairedCounts(counts.both, counts.won, counts.lost, counts.neither)


@given(few, few)
def test_mcnemar_is_the_binomial_test_of_the_items_that_differ(lost: int, won: int) -> None:
    if lost + won:
        assert math.isclose(mcnemar(lost, won), stats.binomtest(lost, lost + won).pvalue, rel_tol=1e-9)
        one_sided = stats.binomtest(lost, lost + won, alternative="greater").pvalue
        assert math.isclose(mcnemar_loss(lost, won), one_sided, rel_tol=1e-9)
    assert mcnemar(lost, won) == mcnemar(won, lost)


@given(few, few)
def test_one_more_lost_item_is_never_weaker_evidence(lost: int, won: int) -> None:
    assert mcnemar_loss(lost + 1, won) < mcnemar_loss(lost, won) <= 1
    assert mcnemar_loss(lost, won + 1) >= mcnemar_loss(lost, won)


def test_nothing_that_differs_is_no_evidence() -> None:
    assert mcnemar(0, 0) == mcnemar_loss(0, 0) == 1


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_counts_by_hand(pairs: list[tuple[bool, bool]]) -> None:
    counts = paired_counts([a for a, _ in pairs], [b for _, b in pairs])
    by_hand = [pairs.count(p) for p in ((True, True), (False, True), (True, False), (False, False))]
    assert [counts.both, counts.lost, counts.won, counts.neither] == by_hand
    assert counts.items == len(pairs)


def test_the_interval_of_a_published_table() -> None:
    # airway reactivity before and after a transplantation, 1 / 1 / 7 / 12: Fagerland, Lydersen and Laake, Statistics in
    # Medicine 33, 2014, give -0.517 .. -0.026 (Tango) at 95 %
    airways = PairedCounts(both=1, lost=7, won=1, neither=12)
    tango = tango_interval(airways, 0.95)
    assert (tango.low, tango.high) == pytest.approx((-0.517, -0.026), abs=6e-4)


@given(tables)
@settings(deadline=None, max_examples=60)
def test_swapping_the_builds_turns_the_interval_over(counts: PairedCounts) -> None:
    one, other = tango_interval(counts), tango_interval(swapped(counts))
    assert one.low <= one.difference <= one.high
    assert one.low >= -1
    assert one.high <= 1
    assert one.low == pytest.approx(-other.high, abs=1e-6)


@given(tables, st.floats(0.005, 0.3))
@settings(deadline=None, max_examples=60)
def test_non_inferiority_and_the_interval_say_the_same(counts: PairedCounts, margin: float) -> None:
    low, p = tango_interval(counts).low, non_inferiority(counts, margin)
    if abs(low + margin) > 1e-6:
        assert (p < 0.05) == (low > -margin)


@given(tables, st.floats(-0.9, 0.9))
@settings(deadline=None)
def test_tango_is_mcnemar_at_zero_and_its_constrained_likelihood_is_the_largest(counts: PairedCounts, d: float) -> None:
    if counts.lost + counts.won:
        z = (counts.won - counts.lost) / math.sqrt(counts.won + counts.lost)
        assert tango_z(counts, 0.0) == pytest.approx(z, abs=1e-9)
    q = np.linspace(max(0, -d), (1 - d) / 2, 4001)[1:-1]
    with np.errstate(divide="ignore"):
        like = counts.lost * np.log(q) + counts.won * np.log(q + d)
        like += (counts.both + counts.neither) * np.log1p(-2 * q - d)
    best = constrained_lost(counts.won, counts.lost, counts.items, d)
    assert abs(best - q[like.argmax()]) < 2e-3


@pytest.mark.parametrize("flips", [0.02, 0.06])
def test_a_loss_of_just_the_margin_is_excluded_in_five_percent(flips: float) -> None:
    rng, n = np.random.default_rng(3), 1319
    draws = rng.multinomial(n, [flips / 2 + 0.015, flips / 2, 1 - flips - 0.015], size=1500)
    wrong = np.mean([non_inferiority(PairedCounts(same, lost, won, 0), 0.015) <= 0.05 for lost, won, same in draws])
    assert 0.03 < wrong < 0.065


def test_two_hundred_items_cannot_show_the_margin_without_a_loss() -> None:
    assert non_inferiority(PairedCounts(189, 1, 1, 9), 0.015) > 0.05
    assert non_inferiority(PairedCounts(1257, 1, 1, 60), 0.015) < 0.001


scores = st.lists(st.floats(0, 2), min_size=3, max_size=15)


@given(scores, st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_bootstrap_of_scores_holds_its_point_and_shifts_with_them(values: list[float], seed: int) -> None:
    other = np.random.default_rng(seed).uniform(0, 2, len(values))
    one = paired_bootstrap(values, other, resamples=400, seed=seed)
    moved = paired_bootstrap(np.add(values, 0.5), other, resamples=400, seed=seed)
    assert one.low <= one.difference + 1e-12
    assert one.difference <= one.high + 1e-12
    assert moved.low == pytest.approx(one.low + 0.5)


def test_bootstrap_of_fifteen_items_covers_the_truth() -> None:
    rng = np.random.default_rng(5)
    missed = 0
    for _ in range(600):
        gaps = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], size=15, p=[0.1, 0.2, 0.4, 0.2, 0.1])
        interval = paired_bootstrap(gaps, np.zeros(15), resamples=600)
        missed += not interval.low <= 0 <= interval.high
    assert 0.06 < missed / 600 < 0.14


def test_bootstrap_of_few_normal_items_is_as_wide_as_students_interval() -> None:
    gaps = stats.norm.ppf((np.arange(8) + 0.5) / 8)
    interval = paired_bootstrap(gaps, np.zeros(8), resamples=100_000)
    student = stats.t.ppf(0.95, 7) * gaps.std(ddof=1) / math.sqrt(8)
    assert (interval.high - interval.low) / 2 == pytest.approx(student, rel=0.03)  # 6 % less without n / (n - 1)


def test_passes_over_an_item_are_averaged_first() -> None:
    ours, theirs = np.array([[1, 0], [1, 1], [0, 0]]), np.array([1.0, 0.5, 0.5])
    assert paired_bootstrap(ours, theirs).difference == pytest.approx((-0.5 + 0.5 - 0.5) / 3)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8))
def test_sign_flips_are_enumerated(gaps: list[int]) -> None:
    zero = np.zeros(len(gaps))
    sums = [
        sum(s * g for s, g in zip(signs, gaps, strict=True)) for signs in itertools.product((1, -1), repeat=len(gaps))
    ]
    assert sign_flip_loss(gaps, zero) == pytest.approx(np.mean([s <= sum(gaps) for s in sums]))


def test_many_sign_flips_are_sampled_near_the_normal() -> None:
    gaps = np.random.default_rng(7).normal(-0.1, 1, 200)
    z = gaps.sum() / math.sqrt((gaps**2).sum())
    assert sign_flip_loss(gaps, np.zeros(200)) == pytest.approx(stats.norm.cdf(z), abs=0.02)


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: paired_counts([True], [True, False]), "do not pair up"),
        (lambda: paired_counts([0.5], [1]), "true and false"),
        (lambda: paired_counts([], []), "do not pair up"),
        (lambda: paired_bootstrap([1.0, 2.0], [1.0, 2.0]), "at least 3"),
        (lambda: paired_bootstrap([1.0, 2.0, float("nan")], [1.0, 2.0, 3.0]), "finite"),
        (lambda: mcnemar_loss(-1, 2), "negative"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(call, why: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=why):
        call()


@pytest.mark.parametrize(("items", "margin", "fail_alpha"), [(60, 0.1, 0.01), (1319, 0.015, 0.01), (14, 0.06, 0.01)])
def test_the_detectable_loss_is_found_in_four_of_five_simulated_runs(
    items: int, margin: float, fail_alpha: float
) -> None:
    loss = detectable_loss(items, margin, fail_alpha)
    assert loss is not None
    lost = np.random.default_rng(5).binomial(items, loss, size=20_000)
    found = [mcnemar_loss(int(n), 0) <= fail_alpha and n / items > margin for n in lost]
    assert float(np.mean(found)) == pytest.approx(0.80, abs=0.01)


def test_six_items_can_never_fail_at_one_percent() -> None:
    assert detectable_loss(6, 0.01, 0.01) is None  # 2^-6 is more than 0.01
    assert detectable_loss(7, 0.01, 0.01) is not None
