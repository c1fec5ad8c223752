"""Checks and rules of oracle: agreement with a reference run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from ds4bench.core import (
    Answer,
    Baseline,
    CheckStatus,
    Fingerprint,
    RequestRow,
    RunData,
    RunManifest,
    ScriptRow,
    Verdict,
)
from ds4bench.spec.load import EffectiveGate
from ds4bench.store.baselines import from_run
from ds4bench.verdicts.checks import CHECKS
from ds4bench.verdicts.comparability import comparable
from ds4bench.verdicts.evidence import Evidence, gather
from ds4bench.verdicts.rules.agreement import compare, logprob_error, overlap
from tests.verdicts.judging import gate, judge, row, run_of


def reply(tokens: str, *, sure: float = 2.0, shift: float = 0.0, rival: str = "z") -> dict[str, Any]:
    """One token a letter; each ``sure`` nats above its rival."""
    top = [{token: -0.1 + shift, rival: -0.1 - sure, "y": -5.0} for token in tokens]
    return {"text": "t", "tokens": list(tokens), "top": top}


def test_places_count_up_to_the_first_fork_and_a_low_margin_fork_is_no_disagreement() -> None:
    same = compare(reply("abcd"), reply("abcd"), 0.5, 3)
    assert (same.places, same.agreed, same.forked) == (4, 4, False)
    low = compare(reply("abxq"), reply("abcd", sure=0.4), 0.5, 3)
    assert (low.places, low.agreed, low.forked, low.length) == (2, 2, True, 4)
    high = compare(reply("abxq"), reply("abcd"), 0.5, 3)
    assert (high.places, high.agreed, high.forked) == (3, 2, False)


def test_a_reply_that_ends_where_the_other_goes_on_differs_there() -> None:
    whole, early = reply("abcdefghij"), reply("abcdef")
    for ours, theirs in ((early, whole), (whole, early)):
        found = compare(ours, theirs, 0.5, 3)
        assert (found.places, found.agreed, found.forked) == (7, 6, False)
        assert len(found.overlaps) == len(found.errors) == 6  # of the seventh only one side tells


def test_an_early_end_where_the_longer_reply_was_hardly_going_on_is_a_fork() -> None:
    found = compare(reply("abcdef"), reply("abcdefghij", sure=0.4), 0.5, 3)
    assert (found.places, found.agreed, found.forked, found.length) == (6, 6, True, 10)


@pytest.mark.parametrize(("ours", "theirs"), [("abcd", "abcde"), ("abcde", "abcd"), ("abcd", "abcd")])
def test_an_end_token_that_only_one_engine_tells_is_no_difference(ours: str, theirs: str) -> None:
    found = compare(reply(ours), reply(theirs), 0.5, 3)
    assert (found.places, found.agreed, found.forked) == (4, 4, False)


@pytest.mark.parametrize(
    ("tokens", "verdict"),
    [
        ("abcdef", Verdict.FAIL),  # each reply ends at 60 % of the reference's
        ("abcdefghij", Verdict.PASS),
        ("abcdefghi", Verdict.PASS),  # without the end token
        ("abcdefghijkl", Verdict.FAIL),  # no reply finds its end
    ],
)
def test_a_serve_whose_replies_end_elsewhere_does_not_agree(tokens: str, verdict: Verdict) -> None:
    assert judge("agreement", oracle_evidence(reply(tokens), reply("abcdefghij")))[0].verdict is verdict


def test_a_difference_where_tokens_of_one_text_hide_each_other_is_no_evidence() -> None:
    """Two special tokens without a text: the reference's best rival is behind its best token's name."""
    ours, theirs = reply("abcd"), reply("abcd")
    ours["tokens"][2] = ""
    theirs["top"][2] = {"c": -0.1, "y": -5.0}  # two of three: the other "" was overwritten
    found = compare(ours, theirs, 0.5, 3)
    assert (found.places, found.agreed, found.forked) == (2, 2, True)


def test_a_serve_that_tells_fewer_rivals_than_asked_is_judged_all_the_same() -> None:
    """Else no difference would count on it, and the gate could not fail."""
    ours, theirs = reply("abxd"), reply("abcd")
    for side in (ours, theirs):
        side["top"] = [{token: value for token, value in top.items() if token != "y"} for top in side["top"]]
    (result, *_) = judge("agreement", oracle_evidence(ours, theirs))
    assert result.verdict is Verdict.FAIL
    assert "of 12 places" in result.sentence  # three of each reply: two agree, one does not


def test_tokens_by_id_are_not_compared_with_tokens_by_text() -> None:
    by_id = reply("abcd")
    by_id["tokens"] = [f"token_id:{i}" for i in range(4)]
    (result,) = judge("agreement", oracle_evidence(by_id, reply("abcd")))
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "options.tokens=text" in result.sentence


def test_overlap_and_logprob_error_are_of_the_likeliest_tokens() -> None:
    assert overlap({"a": -1.0, "b": -2.0}, {"a": -1.0, "c": -2.0}) == 0.5
    assert logprob_error({"a": -0.3, "b": -9.0}, {"a": -0.1, "b": -9.0}) == pytest.approx(0.2, abs=1e-3)
    assert logprob_error({"a": -0.1}, {"b": -0.1}) == float("inf")


def oracle_evidence(ours: dict[str, Any], theirs: dict[str, Any] | None) -> Evidence:
    effective = gate("oracle", "matrix.words=[60]", "options.top_logprobs=3")

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
