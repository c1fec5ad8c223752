"""From the gates of a suite to one verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ds4bench.core import RuleResult, Verdict
from ds4bench.verdicts.promotion import SuiteLine, after_holm, promotion

P, F, U, V, S = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.SKIPPED


def line(verdict: Verdict | None, p: float | None = None, gate: str = "g", **changes: Any) -> SuiteLine:
    rules = (
        ()
        if verdict is None or p is None
        else (RuleResult(rule="ttft", verdict=verdict, sentence=f"slow: {verdict}", p=p),)
    )
    return SuiteLine(gate, "smoke", verdict, f"slow: {verdict}", rules=rules, **changes)


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([P, P], P), ([P, U], U), ([U, F], F), ([F, V, U], V), ([P, S], U), ([P, None], U), ([F, None], F),
    ],
)  # fmt: skip
def test_the_worst_gate_decides(verdicts: list[Verdict | None], worst: Verdict) -> None:
    assert promotion([line(verdict) for verdict in verdicts]).verdict is worst


def test_a_skip_that_the_suite_allows_does_not_keep_it_from_a_pass() -> None:
    outcome = promotion([line(P), line(S, gate="prefix-cache", may_skip=True)])
    assert outcome.verdict is P
    assert outcome.sentence == "1 of 2 gates pass (prefix-cache skipped, which the suite allows): PASS"


def test_the_sentence_names_the_gate_that_decides() -> None:
    assert promotion([line(P), line(F, gate="bad"), line(F, gate="worse")]).sentence == "bad: slow (and 1 more): FAIL"
    late = SuiteLine("late", "smoke")
    assert promotion([line(P), late]).sentence == "late was not run: INCONCLUSIVE"
    late = replace(late, sentence="the budget is used up")
    assert promotion([line(P), late]).sentence == "late was not run: the budget is used up: INCONCLUSIVE"


def test_a_fail_must_outlive_holm_over_the_gates_of_the_suite() -> None:
    many = [line(P, 0.5) for _ in range(4)]
    weak, strong = after_holm([*many, line(F, 0.008)]), after_holm([*many, line(F, 0.001)])
    assert weak[-1].verdict is U
    assert "p 0.04 after Holm over 5 comparisons" in weak[-1].sentence
    assert strong[-1].verdict is F
    assert after_holm([line(F, 0.004, looks=2)])[0].verdict is F
    assert after_holm([line(F, 0.006, looks=2)])[0].verdict is U


def test_a_fail_for_another_reason_stands_whatever_the_family() -> None:
    failed = RuleResult(rule="failures", verdict=F, sentence="1 of 9 requests failed: FAIL")
    cell = RuleResult(rule="ttft", verdict=F, sentence="p1: slow", cell="p1", primary=False, p=0.009)
    for rule in (failed, cell):
        lines = [*(line(P, 0.5) for _ in range(9)), SuiteLine("g", "smoke", F, "x", rules=(rule,))]
        assert after_holm(lines)[-1].verdict is F


def test_a_rule_with_a_level_of_its_own_is_held_to_that() -> None:
    def own(p: float, alpha: float) -> SuiteLine:
        rule = RuleResult(rule="strict", verdict=F, sentence="lost: FAIL", p=p, fail_alpha=alpha)
        return SuiteLine("gsm8k", "smoke", F, "lost: FAIL", rules=(rule,))

    many = [line(P, 0.5) for _ in range(4)]
    assert after_holm([*many, own(0.008, 0.05)])[-1].verdict is F  # 0.04 after Holm
    weak = after_holm([*many, own(0.0009, 0.001)])[-1]
    assert weak.verdict is U
    assert "p 0.0045 after Holm over 5 comparisons of the suite, 0.001 is asked" in weak.sentence


def test_ten_gates_of_an_unchanged_build_are_blamed_as_seldom_as_one() -> None:
    rng, blamed = np.random.default_rng(5), 0
    for _ in range(2000):
        lines = [line(F if p <= 0.01 else P, float(p)) for p in rng.random(10)]
        blamed += promotion(lines).verdict is F
    assert blamed <= 32
