"""The rank report: exact p by enumeration, effect size, and why three repeats decide nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ds4bench.stats.rank import rank_report


def brute_force(ours: list[float], theirs: list[float]) -> float:
    values = ours + theirs
    n = len(ours)

    def u(chosen: tuple[int, ...]) -> float:
        rest = [i for i in range(len(values)) if i not in chosen]
        return sum((values[i] > values[j]) + 0.5 * (values[i] == values[j]) for i in chosen for j in rest)

    middle, seen = n * len(theirs) / 2, u(tuple(range(n)))
    return float(
        np.mean([abs(u(c) - middle) >= abs(seen - middle) for c in itertools.combinations(range(len(values)), n)])
    )


@given(st.lists(st.integers(0, 10**6), min_size=4, max_size=9, unique=True), st.integers(2, 7))
@settings(deadline=None, max_examples=40)
def test_small_samples_without_ties_are_exact(values: list[int], cut: int) -> None:
    ours, theirs = [float(v) for v in values[:cut]], [float(v) for v in values[cut:]]
    if theirs:
        assert rank_report(ours, theirs).p == pytest.approx(min(1.0, brute_force(ours, theirs)), abs=1e-9)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.lists(st.floats(0, 100), min_size=1, max_size=8))
@settings(deadline=None)
def test_swapping_the_samples_turns_the_effect_over(ours: list[float], theirs: list[float]) -> None:
    one, other = rank_report(ours, theirs), rank_report(theirs, ours)
    assert one.p == pytest.approx(other.p)
    assert one.superiority == pytest.approx(1 - other.superiority, abs=1e-12)
    assert 0 <= one.superiority <= 1


def test_three_repeats_a_side_never_reach_significance() -> None:
    report = rank_report([10.0, 11.0, 12.0], [1.0, 2.0, 3.0])
    assert report.p == pytest.approx(report.smallest_p) == pytest.approx(0.10)
    assert report.superiority == 1
    assert rank_report([1.0, 1.0], [1.0, 1.0]).p == 1


@pytest.mark.parametrize("bad", [[], [[1.0]], [float("nan")]])
def test_samples_without_order_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match=r"flat|finite"):
        rank_report(bad, [1.0])
