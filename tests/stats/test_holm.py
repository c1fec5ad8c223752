"""Holm's correction: agreement with the textbook, and what it promises for a family."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.stats.holm import holm_adjust

families = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def step_down(p: list[float], alpha: float) -> list[bool]:
    """Holm's own words: go up from the smallest, stop at the first that is too large."""
    rejected = [False] * len(p)
    for place, index in enumerate(np.argsort(p, kind="stable")):
        if p[index] > alpha / (len(p) - place):
            break
        rejected[index] = True
    return rejected


def rejected(p: list[float], alpha: float) -> list[bool]:
    return [value <= alpha for value in holm_adjust(p)]


def test_textbook_example() -> None:
    assert holm_adjust([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(families, st.sampled_from([0.01, 0.05, 0.2]))
def test_rejects_what_the_step_down_procedure_rejects(p: list[float], alpha: float) -> None:
    clear = [v for v in p if all(abs(v * m - alpha) > 1e-9 for m in range(1, 13))]
    assert not clear or rejected(clear, alpha) == step_down(clear, alpha)


@given(families, st.randoms(use_true_random=False))
def test_order_of_the_family_does_not_matter(p: list[float], random: object) -> None:
    order = sorted(range(len(p)), key=lambda _: random.random())  # type: ignore[attr-defined]
    assert holm_adjust([p[i] for i in order]) == pytest.approx([holm_adjust(p)[i] for i in order])


@given(families)
def test_between_the_raw_value_and_bonferroni(p: list[float]) -> None:
    for raw, adjusted in zip(p, holm_adjust(p), strict=True):
        assert raw <= adjusted <= min(1.0, len(p) * raw) + 1e-12


def test_a_false_alarm_in_a_family_of_unchanged_gates_is_as_rare_as_promised() -> None:
    p = np.random.default_rng(1).random((4000, 7))
    alarms = sum(any(rejected(list(row), 0.05)) for row in p)
    assert 0.035 < alarms / 4000 < 0.06


@pytest.mark.parametrize("bad", [[-0.1], [1.1], [float("nan")]])
def test_no_p_value_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="no p value"):
        holm_adjust(bad)


def test_an_empty_family_has_no_p_values() -> None:
    assert holm_adjust([]) == []
