"""Checks and rules of prefix-cache and of conversations: hits, points, sameness, token counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import t, ttest_ind

from ds4bench.core import (
    Answer,
    CheckStatus,
    RequestRow,
    RuleResult,
    RunData,
    ScriptRow,
    Verdict,
)
from ds4bench.store.baselines import from_run
from ds4bench.verdicts.evidence import Evidence, gather
from ds4bench.verdicts.rules.points import difference, ps_of, verdicts
from tests.verdicts.judging import check, gate, judge, row, run_of


def turns(cell: str, hits: Sequence[int], repeat: int = 0, block: int = 256) -> list[RequestRow]:
    """Three turns of 1,000 tokens, of which the last two repeat 1,000."""
    return [
        row(
            cell, i, repeat=repeat, prompt_tokens=1000 + 40 * i, cached_tokens=cached,
            expect={"prefix_tokens": 1000 if i else 0, "block_size": block, "block_size_from": "/version"},
        )
        for i, cached in enumerate(hits)
    ]  # fmt: skip


SOUND, CLIFF = (0, 768, 768), (0, 768, 0)
ONE_SHAPE = ("matrix.words=[400, 800]", "matrix.arrangement=[solo]")


def cache_evidence(ours: dict[str, Any], theirs: dict[str, Any] | None = None, repeats: int = 2) -> Evidence:
    effective = gate("prefix-cache", *ONE_SHAPE, f"repeats.count={repeats}")

    def run(hits: dict[str, Any]) -> RunData:
        return run_of(effective, [r for cell, h in hits.items() for n in range(repeats) for r in turns(cell, h, n)])

    baseline = None if theirs is None else from_run(run(theirs), "before")
    return gather(effective, run(ours), baseline, [] if baseline else ["no baseline"])


def test_a_cliff_at_one_shape_fails_against_the_baseline_and_against_the_ideal() -> None:
    sound = {"solo-w400": SOUND, "solo-w800": SOUND}
    found = cache_evidence({**sound, "solo-w800": CLIFF}, sound)
    worst, *cells = judge("hit_rate", found)
    assert worst.verdict is Verdict.FAIL
    assert "solo-w800" in worst.sentence
    assert [cell.verdict for cell in cells] == [Verdict.PASS, Verdict.FAIL]
    (ideal,) = judge("of_ideal", found)
    assert ideal.verdict is Verdict.FAIL
    assert "0.5 in solo-w800" in ideal.sentence


def test_an_unchanged_cache_passes_and_a_better_one_too() -> None:
    sound, low = {"solo-w400": SOUND, "solo-w800": SOUND}, {"solo-w400": SOUND, "solo-w800": CLIFF}
    assert judge("hit_rate", cache_evidence(sound, sound))[0].verdict is Verdict.PASS
    assert judge("hit_rate", cache_evidence(sound, low))[0].verdict is Verdict.PASS
    assert judge("of_ideal", cache_evidence(sound))[0].verdict is Verdict.PASS


def test_points_without_a_baseline_or_without_hits_decide_nothing() -> None:
    sound = {"solo-w400": SOUND, "solo-w800": SOUND}
    assert judge("hit_rate", cache_evidence(sound))[0].verdict is Verdict.INCONCLUSIVE
    silent = cache_evidence({**sound, "solo-w800": (None, None, None)}, sound)
    assert judge("hit_rate", silent)[0].verdict is Verdict.INCONCLUSIVE
    assert "solo-w800" in judge("hit_rate", silent)[0].sentence


def test_points_have_welchs_interval_over_repeats_and_none_for_one() -> None:
    ours, theirs = [0.70, 0.74], [0.80, 0.82, 0.84]
    found = difference("c", ours, theirs)
    told = ttest_ind(ours, theirs, equal_var=False).confidence_interval(0.90)
    assert found.points == pytest.approx(-0.10)
    assert (found.low, found.high) == (pytest.approx(told.low), pytest.approx(told.high))
    assert difference("c", [0.5], [0.6, 0.7]).low is None
    assert difference("c", [0.5, 0.5], [0.6, 0.6])[3:5] == (pytest.approx(-0.1), pytest.approx(-0.1))


def test_the_p_of_a_fall_is_students_for_one_cell_and_held_over_all() -> None:
    ours, theirs = [0.70, 0.74, 0.75], [0.80, 0.82, 0.84]
    fallen, level = difference("a", ours, theirs), difference("b", [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
    assert ps_of([fallen]) == [pytest.approx(ttest_ind(ours, theirs, alternative="less").pvalue)]
    [worse, same, none] = ps_of([fallen, level, difference("c", [0.5], [0.6, 0.7])])
    error = fallen.error
    assert error is not None
    assert worse == pytest.approx(2 * t.cdf(fallen.points / error, 8))  # its own error is the larger one
    assert same == 0.5
    assert none is None
    assert ps_of([difference("c", [0.5, 0.5], [0.6, 0.6]), level]) == [0.0, 1.0]


@pytest.mark.parametrize(("repeats", "noise"), [(2, 0.02), (3, 0.03), (3, 0.06)])
def test_an_unchanged_cache_with_noise_in_twenty_cells_is_hardly_ever_blamed(repeats: int, noise: float) -> None:
    """The interval alone blames 9 % of such builds at a noise of 6 points; a cliff is found all the same."""
    random, rule = np.random.default_rng(5), gate("prefix-cache").spec.rules[0]
    assert (rule.kind, rule.margin) == ("points", 0.05)

    def blamed(fall: float) -> bool:
        rates = random.normal(0.8, noise, (20, 2, repeats))
        rates[7, 0] -= fall
        found = [difference(str(cell), ours, theirs) for cell, (ours, theirs) in enumerate(rates.tolist())]
        return Verdict.FAIL in [verdict for verdict, _ in verdicts(rule, found, level=0.01)]

    assert sum(blamed(0.0) for _ in range(600)) <= 6
    assert sum(blamed(0.26) for _ in range(100)) >= 85


def test_noisy_repeats_around_the_margin_are_inconclusive() -> None:
    effective = gate("prefix-cache", "matrix.words=[800]", "matrix.arrangement=[solo]")
    ours = run_of(effective, [*turns("solo-w800", SOUND, 0), *turns("solo-w800", (0, 512, 512), 1)])
    theirs = run_of(effective, [*turns("solo-w800", SOUND, 0), *turns("solo-w800", SOUND, 1)])
    found = gather(effective, ours, from_run(theirs, "before"))
    assert judge("hit_rate", found)[0].verdict is Verdict.INCONCLUSIVE


def test_usage_and_counters_that_differ_make_the_run_invalid() -> None:
    effective = gate("prefix-cache")
    rows = turns("solo-w400", SOUND)
    assert check("hit_sources_agree", effective, rows, prefix_cache_hits=1536).status is CheckStatus.OK
    apart = check("hit_sources_agree", effective, rows, prefix_cache_hits=0)
    assert apart.status is CheckStatus.FAILED
    assert apart.cells == ["solo-w400"]
    assert check("hit_sources_agree", effective, rows).status is CheckStatus.NOT_APPLICABLE


def test_replies_without_cached_tokens_leave_hits_unverified() -> None:
    rows = turns("solo-w400", (0, 768, None))  # type: ignore[arg-type]
    assert check("hits_reported", gate("prefix-cache"), rows).status is CheckStatus.UNVERIFIED
    assert check("hits_reported", gate("prefix-cache"), turns("solo-w400", SOUND)).status is CheckStatus.OK


def test_a_first_turn_that_hits_makes_the_run_invalid() -> None:
    warm = check("no_accidental_hits", gate("prefix-cache"), turns("solo-w400", (256, 768, 768)))
    assert warm.status is CheckStatus.FAILED
    assert "256 tokens where 0 are possible" in warm.detail
    assert check("no_accidental_hits", gate("prefix-cache"), turns("solo-w400", SOUND)).status is CheckStatus.OK


def test_decoding_behind_a_prompt_that_was_not_cached_is_invalid() -> None:
    effective = gate("long-context-decode")
    hot = row("p3072-c1", 1, cached_tokens=990, expect={"step": "decode"})
    cold = row("p3072-c1", 1, cached_tokens=500, expect={"step": "decode"})
    silent = row("p3072-c1", 1, cached_tokens=None, expect={"step": "decode"})
    found = [
        check("primed", effective, [row("p3072-c1", expect={"step": "prefill"}), r]).status for r in (hot, cold, silent)
    ]
    assert found == [CheckStatus.OK, CheckStatus.FAILED, CheckStatus.UNVERIFIED]


def test_a_conversation_whose_history_was_cut_is_invalid() -> None:
    effective = gate("soak")

    def talk(*lengths: int | None) -> list[RequestRow]:
        return [row("soak-c4", i, prompt_tokens=n, expect={"conversation": 0}) for i, n in enumerate(lengths)]

    assert check("conversations_grow", effective, talk(100, 200, 300)).status is CheckStatus.OK
    assert check("conversations_grow", effective, talk(100, 200, 200)).status is CheckStatus.FAILED
    assert check("conversations_grow", effective, talk(100, None, 200)).status is CheckStatus.UNVERIFIED


@pytest.mark.parametrize(
    ("cell", "start_s", "status"),
    [
        ("prefill_behind_decode", 1.5, CheckStatus.OK),
        ("prefill_behind_decode", 0.5, CheckStatus.FAILED),  # before the first token
        ("prefill_behind_decode", 3.5, CheckStatus.FAILED),  # decoding was over
        ("short_behind_prefill", 0.5, CheckStatus.OK),
        ("short_behind_prefill", 1.5, CheckStatus.FAILED),  # prefill was over
    ],
)
def test_a_second_request_that_comes_too_early_or_too_late_is_invalid(
    cell: str, start_s: float, status: CheckStatus
) -> None:
    effective = gate("mixed-arrival")
    rows = [
        row(f"{cell}-p3072", 0, e2e_s=3.0, expect={"role": "first"}),
        row(f"{cell}-p3072", 1, start_s=start_s, e2e_s=3.0, expect={"role": "second"}),
    ]
    assert check("arrivals_overlap", effective, rows).status is status


@pytest.mark.parametrize(
    ("tpot", "verdict"), [(20.0, Verdict.PASS), (50.0, Verdict.FAIL), (None, Verdict.INCONCLUSIVE)]
)
def test_scaling_compares_each_cell_with_the_same_length_at_one_request(tpot: float | None, verdict: Verdict) -> None:
    effective = gate("long-context-decode")
    rows = [row("p3072-c1", tpot_ms=10.0), row("p3072-c2", tpot_ms=tpot), row("p3072-c2", 1, tpot_ms=tpot)]
    (found,) = judge("scaling", gather(effective, run_of(effective, rows), None))
    assert found.verdict is verdict


def sent_again(same: Sequence[float | None], repeat: int = 0) -> list[ScriptRow]:
    """Prompts that were sent again; None: nothing of it was cached."""
    return [
        ScriptRow(
            cell="again-w800", repeat=repeat, attempt=0, phase="measure", script=i, key=f"again-w800/{i}", requests=3,
            answer=Answer(scores={"answers": 1.0} if value is None else {"answers": 1.0, "same_when_cached": value}),
        )
        for i, value in enumerate(same)
    ]  # fmt: skip


def sameness(ours: Sequence[float | None], theirs: Sequence[float | None] | None) -> RuleResult:
    effective = gate("prefix-cache", "matrix.words=[800]", "matrix.arrangement=[again]", "repeats.count=1")
    rows = [row("again-w800", i, script=i) for i in range(3)]
    baseline = None if theirs is None else from_run(run_of(effective, rows, sent_again(theirs)), "before")
    (result,) = judge("same", gather(effective, run_of(effective, rows, sent_again(ours)), baseline, ["none"]))
    return result


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1.0] * 8, [1.0] * 8, Verdict.PASS),
        ([1.0] * 7 + [0.0], [1.0] * 8, Verdict.PASS),  # rounding of a short rest is no defect
        ([0.0] * 8, [1.0] * 8, Verdict.FAIL),
        ([0.0] * 7 + [1.0], [1.0] * 7 + [0.0], Verdict.FAIL),
        ([0.0] * 3, [1.0] * 3, Verdict.INCONCLUSIVE),  # 1 of 20: too few to blame
        ([0.0] * 8, [0.0] * 8, Verdict.SKIPPED),  # a serve whose cached replies always differ a little
        ([None] * 8, [1.0] * 8, Verdict.SKIPPED),
        ([0.0] * 8, None, Verdict.INCONCLUSIVE),
    ],
)
def test_replies_out_of_the_cache_must_be_those_that_were_computed(
    ours: list[float | None], theirs: list[float | None] | None, verdict: Verdict
) -> None:
    assert sameness(ours, theirs).verdict is verdict


def test_usage_that_claims_more_tokens_than_the_serve_counted_makes_a_run_invalid() -> None:
    effective = gate("random")
    cell = effective.spec.matrix.cells()[0].id
    rows = [row(cell, i, completion_tokens=60) for i in range(2)]
    assert check("token_counts_agree", effective, rows, generation_tokens=118).status is CheckStatus.OK
    assert check("token_counts_agree", effective, rows, generation_tokens=100).status is CheckStatus.FAILED
    assert check("token_counts_agree", effective, rows).status is CheckStatus.NOT_APPLICABLE
    failed = [*rows, row(cell, 2, ok=False, error="deadline", completion_tokens=None)]
    assert check("token_counts_agree", effective, failed, generation_tokens=500).status is CheckStatus.NOT_APPLICABLE
