"""Rules and checks of the gates prefix-cache, oracle, soak, long-context-decode and mixed-arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scipy.stats import ttest_ind

from ds4bench.core import (
    Answer,
    Baseline,
    CheckResult,
    CheckStatus,
    Fingerprint,
    RequestResult,
    RequestRow,
    RuleResult,
    RunData,
    RunManifest,
    ScriptRow,
    Verdict,
)
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.store.baselines import from_run
from ds4bench.verdicts.checks import CHECKS
from ds4bench.verdicts.comparability import comparable
from ds4bench.verdicts.evidence import Evidence, gather
from ds4bench.verdicts.rules import JUDGES
from ds4bench.verdicts.rules.agreement import compare, logprob_error, overlap
from ds4bench.verdicts.rules.points import difference
from tests.records import batch_row, request_row, run_manifest

GATES = Path(__file__).parents[2] / "gates"


def gate(name: str, *overrides: str) -> EffectiveGate:
    return load_gate(name, profile="smoke", overrides=overrides, directory=GATES)


def row(
    cell: str, index: int = 0, *, repeat: int = 0, script: int = 0, expect: Any = None, **result: Any
) -> RequestRow:
    told = {"ok": True, "prompt_tokens": 1000, "completion_tokens": 20, "cached_tokens": 0, "ttft_s": 1.0, **result}
    return request_row(
        cell, repeat=repeat, index=index, result=RequestResult(**told), expect=expect or {}, script=script, turn=index
    )


def run_of(
    effective: EffectiveGate, rows: Sequence[RequestRow], scripts: Sequence[ScriptRow] = (), **counters: float
) -> RunData:
    keys = dict.fromkeys((r.cell, r.repeat) for r in rows)
    batches = [
        batch_row(
            cell,
            repeat=repeat,
            requests=sum((r.cell, r.repeat) == (cell, repeat) for r in rows),
            counters=counters,
        )
        for cell, repeat in keys
    ]
    told = Fingerprint(engine="e", model="m", weights="trained", prefix_caching=True, hardware={"cpu": "a"})
    manifest = run_manifest(effective, fingerprint=told)
    return RunData(manifest=manifest, requests=list(rows), batches=batches, scripts=list(scripts))


def check(name: str, effective: EffectiveGate, rows: Sequence[RequestRow], **counters: float) -> CheckResult:
    return CHECKS[name](gather(effective, run_of(effective, rows, **counters), None))


def judge(name: str, evidence: Evidence) -> list[RuleResult]:
    rule = next(rule for rule in evidence.spec.rules if rule.name == name)
    return JUDGES[rule.kind](rule, evidence)


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
    assert difference("c", [0.5, 0.5], [0.6, 0.6])[3:] == (pytest.approx(-0.1), pytest.approx(-0.1))


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


def reply(tokens: str, *, sure: float = 2.0, shift: float = 0.0, rival: str = "z") -> dict[str, Any]:
    """One token a letter; each ``sure`` nats above its rival."""
    top = [{token: -0.1 + shift, rival: -0.1 - sure, "y": -5.0} for token in tokens]
    return {"text": "t", "tokens": list(tokens), "top": top}


def test_places_count_up_to_the_first_fork_and_a_low_margin_fork_is_no_disagreement() -> None:
    same = compare(reply("abcd"), reply("abcd"), 0.5)
    assert (same.places, same.agreed, same.forked) == (4, 4, False)
    low = compare(reply("abxq"), reply("abcd", sure=0.4), 0.5)
    assert (low.places, low.agreed, low.forked, low.length) == (2, 2, True, 4)
    high = compare(reply("abxq"), reply("abcd"), 0.5)
    assert (high.places, high.agreed, high.forked) == (3, 2, False)


def test_overlap_and_logprob_error_are_of_the_likeliest_tokens() -> None:
    assert overlap({"a": -1.0, "b": -2.0}, {"a": -1.0, "c": -2.0}) == 0.5
    assert logprob_error({"a": -0.3, "b": -9.0}, {"a": -0.1, "b": -9.0}) == pytest.approx(0.2, abs=1e-3)
    assert logprob_error({"a": -0.1}, {"b": -0.1}) == float("inf")


def oracle_evidence(ours: dict[str, Any], theirs: dict[str, Any] | None) -> Evidence:
    effective = gate("oracle", "matrix.words=[60]")

    def run(detail: dict[str, Any]) -> RunData:
        scripts = [
            ScriptRow(
                cell="w60-c2", repeat=0, attempt=0, phase="measure", script=i, key=f"w60-c2/{i}", requests=1,
                answer=Answer(detail={"text": detail["text"], "replies": [detail]}),
            )
            for i in range(4)
        ]  # fmt: skip
        rows = [row("w60-c2", script=i, completion_tokens=4) for i in range(4)]
        return run_of(effective, rows, scripts)

    baseline = None if theirs is None else from_run(run(theirs), "reference")
    return gather(effective, run(ours), baseline, [] if baseline else ["no baseline"])


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        (reply("abcd"), reply("abcd"), Verdict.PASS),
        (reply("abxd"), reply("abcd"), Verdict.FAIL),  # another token at a high margin
        (
            reply("abcx", sure=0.3),
            reply("abcd", sure=0.3),
            Verdict.PASS,
        ),  # a fork at a low margin, behind most of the reply
        (reply("xbcd"), reply("abcd", sure=0.3, shift=1e-3), Verdict.FAIL),  # all of it is fork, and the rivals differ
        (reply("abcd", shift=-0.2), reply("abcd"), Verdict.FAIL),  # the same tokens, other logprobs
        (reply("abcd", rival="q"), reply("abcd"), Verdict.FAIL),  # the same tokens, other rivals
        (reply("abcd"), {**reply("abcd"), "text": "another"}, Verdict.INCONCLUSIVE),
        (reply("abcd"), None, Verdict.INCONCLUSIVE),
    ],
)
def test_a_reply_is_judged_by_tokens_rivals_and_logprobs(
    ours: dict[str, Any], theirs: dict[str, Any] | None, verdict: Verdict
) -> None:
    evidence = oracle_evidence(ours, theirs)
    loose = evidence.spec.model_copy(
        update={"rules": [rule.model_copy(update={"overlap_at_least": 0.8}) for rule in evidence.spec.rules[:1]]}
    )
    assert judge("agreement", with_spec(evidence, loose))[0].verdict is verdict


def with_spec(evidence: Evidence, spec: Any) -> Evidence:
    return replace(evidence, spec=spec)


def test_forks_that_leave_too_little_to_compare_are_inconclusive() -> None:
    early = {**reply("axcd"), "top": reply("abcd")["top"]}  # another choice between the same likely tokens
    found = oracle_evidence(
        early, reply("abcd", sure=0.3) | {"top": early["top"][:1] + reply("abcd", sure=0.3)["top"][1:]}
    )
    rules = [rule.model_copy(update={"error_at_most_nats": 2.0}) for rule in found.spec.rules[:1]]
    assert judge("agreement", with_spec(found, found.spec.model_copy(update={"rules": rules})))[0].verdict is (
        Verdict.INCONCLUSIVE
    )


def test_replies_without_logprobs_make_an_oracle_run_invalid() -> None:
    sound = oracle_evidence(reply("abcd"), None)
    assert CHECKS["logprobs_complete"](sound).status is CheckStatus.OK
    silent = oracle_evidence({"text": "t", "tokens": [], "top": []}, None)
    assert CHECKS["logprobs_complete"](silent).status is CheckStatus.FAILED
    alone = oracle_evidence({**reply("abcd"), "top": [{"a": -0.1}] * 4}, None)
    assert CHECKS["logprobs_complete"](alone).status is CheckStatus.FAILED


def reference_from(machine: str, effective: EffectiveGate, rows: list[RequestRow]) -> tuple[RunManifest, Baseline]:
    run = run_of(effective, rows)
    there = msgspec.structs.replace(from_run(run, "there"), fingerprint=Fingerprint(
        engine="e", model="m", weights="trained", prefix_caching=False, speculative="mtp:1", hardware={"cpu": machine},
    ))  # fmt: skip
    return run.manifest, there


def test_an_oracle_reference_may_come_from_another_machine_and_a_times_baseline_may_not() -> None:
    assert comparable(*reference_from("b", gate("oracle"), [row("w60-c2")])) == []
    reasons = " ".join(comparable(*reference_from("b", gate("needle"), [row("p1024-c2")])))
    assert "hardware cpu" in reasons
    assert "speculative" in reasons


def test_only_a_workload_that_needs_them_keeps_the_details_of_its_scripts_in_a_baseline() -> None:
    reference = oracle_evidence(reply("abcd"), reply("abcd")).baseline
    assert reference is not None
    assert all(
        script.answer and script.answer.detail["replies"][0]["tokens"] == list("abcd") for script in reference.scripts
    )
    effective = gate("needle")
    script = ScriptRow(
        cell="p1024-c2", repeat=0, attempt=0, phase="measure", script=0, key="k", requests=1,
        answer=Answer(scores={"needle": 1.0}, detail={"reply": "long"}),
    )  # fmt: skip
    small = from_run(run_of(effective, [row("p1024-c2")], [script]), "b")
    assert [s.answer for s in small.scripts] == [Answer(scores={"needle": 1.0})]


def test_what_goes_wrong_behind_a_cache_hit_alone_is_judged_by_itself() -> None:
    found = oracle_evidence(reply("abcd"), reply("abcd"))
    assert found.baseline is not None
    sound, wrong = reply("abcd"), reply("abcd", shift=-0.03)

    def scripts(*replies: dict[str, Any]) -> list[ScriptRow]:
        detail = Answer(detail={"text": "t", "replies": list(replies)})
        return [msgspec.structs.replace(script, answer=detail) for script in found.scripts()]

    baseline = msgspec.structs.replace(found.baseline, scripts=scripts(sound, sound))
    batches = [replace(batch, scripts=scripts(sound, wrong)) for batch in found.batches]
    overall, cell, again = judge("agreement", replace(found, baseline=baseline, batches=batches))
    assert (overall.verdict, cell.verdict) == (Verdict.PASS, Verdict.PASS)  # 0.015 nat in the mean
    assert again.verdict is Verdict.FAIL
    assert "sent again" in again.sentence


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


def test_openings_have_a_limit_of_their_own_and_do_not_count_among_the_long_replies() -> None:
    effective = gate("oracle", "matrix.words=[4, 60]")

    def run(error: float) -> RunData:
        moved = [{"a": -0.1 - error, "b": -2.5}] * 2
        short = {"text": "t", "replies": [{"tokens": ["a", "a"], "top": moved}]}
        long = {"text": "t", "replies": [{"tokens": ["a"] * 4, "top": [{"a": -0.1, "b": -2.5}] * 4}]}
        scripts = [
            ScriptRow(
                cell=cell, repeat=0, attempt=0, phase="measure", script=0, key=f"{cell}/0", requests=1,
                answer=Answer(detail=detail),
            )
            for cell, detail in (("w4-c2", short), ("w60-c2", long))
        ]  # fmt: skip
        return run_of(effective, [row("w4-c2"), row("w60-c2")], scripts)

    for error, verdict in ((0.0, Verdict.PASS), (0.1, Verdict.PASS), (0.4, Verdict.FAIL)):
        found = judge("agreement", gather(effective, run(error), from_run(run(0.0), "before")))
        assert {result.cell: result.verdict for result in found} == {
            None: Verdict.PASS, "w4-c2": verdict, "w60-c2": Verdict.PASS,
        }  # fmt: skip


def test_usage_that_claims_more_tokens_than_the_serve_counted_makes_a_run_invalid() -> None:
    effective = gate("random")
    cell = effective.spec.matrix.cells()[0].id
    rows = [row(cell, i, completion_tokens=60) for i in range(2)]
    assert check("token_counts_agree", effective, rows, generation_tokens=118).status is CheckStatus.OK
    assert check("token_counts_agree", effective, rows, generation_tokens=100).status is CheckStatus.FAILED
    assert check("token_counts_agree", effective, rows).status is CheckStatus.NOT_APPLICABLE
    failed = [*rows, row(cell, 2, ok=False, error="deadline", completion_tokens=None)]
    assert check("token_counts_agree", effective, failed, generation_tokens=500).status is CheckStatus.NOT_APPLICABLE
