"""From run and baseline to the verdict and its sentence."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ds4bench.core import Answer, GateVerdict, Verdict
from ds4bench.run_session import fit_for_baseline, outcome_of
from ds4bench.verdicts.decide import decide


def slower(share: float, cell: str = "") -> Any:
    def ttft(name: str, repeat: int, index: int) -> float:
        tokens = int(name.removeprefix("p").partition("-")[0])
        factor = 1 + share if cell in name else 1
        return tokens / 2000 * (index + 1) * (1 + 0.004 * (repeat - 1)) * factor

    return ttft


def verdict_of(world: Any, *overrides: str, **changes: Any) -> GateVerdict:
    gate = world.gate(*overrides)
    return decide(gate, world.run(gate, **changes), world.baseline(world.run(gate)))


def test_unchanged_build_passes_with_the_promised_sentence(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.021))
    assert verdict.verdict is Verdict.PASS
    assert re.fullmatch(
        r"TTFT is 2\.1 % \(\+-3\.\d\) slower than here; margin 10 %; noise 0\.4 %: PASS", verdict.sentence
    )
    assert verdict.baseline == "here"
    assert [(r.rule, r.cell) for r in verdict.rules][:2] == [("ttft", None), ("ttft", "p2048-c1")]


def test_faster_build_is_called_faster(world: Any) -> None:
    assert "TTFT is 10.0 % (+-" in (sentence := verdict_of(world, ttft=slower(-0.1)).sentence)
    assert "faster than here" in sentence


def test_slow_build_fails(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.19))
    assert verdict.verdict is Verdict.FAIL
    assert "19.0 %" in verdict.sentence
    assert verdict.sentence.endswith(": FAIL")


def test_one_slow_cell_fails_though_the_mean_passes(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.3, "p2048-c1"))
    assert verdict.rules[0].verdict is Verdict.PASS
    assert verdict.verdict is Verdict.FAIL
    assert verdict.sentence.startswith("p2048-c1: TTFT is 30.0 %")
    assert "limit of a cell 20 %" in verdict.sentence


def test_undecided_cell_does_not_take_the_pass_away(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.19, "p2048-c1"))
    assert verdict.verdict is Verdict.PASS
    cell = next(rule for rule in verdict.rules if rule.cell == "p2048-c1")
    assert (cell.verdict, cell.primary) == (Verdict.INCONCLUSIVE, False)


def noisy(share: float) -> Any:
    def ttft(name: str, repeat: int, index: int) -> float:
        tokens = int(name.removeprefix("p").partition("-")[0])
        return tokens / 2000 * (index + 1) * (1 + share) * (1 + 0.06 * (repeat - 1))

    return ttft


def test_noise_is_inconclusive_and_says_how_many_repeats_would_decide(world: Any) -> None:
    verdict = verdict_of(world, ttft=noisy(0.02))
    assert verdict.verdict is Verdict.INCONCLUSIVE
    needed = verdict.rules[0].repeats_needed
    assert needed is not None
    assert needed > 3
    assert verdict.sentence.endswith(f"INCONCLUSIVE; {needed} repeats would decide (--repeats {needed})")


def test_a_ratio_at_the_margin_is_told_to_be_undecidable(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.09))
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.rules[0].repeats_needed is None
    assert "no number of repeats would decide" in verdict.sentence
    assert "3.6 % of session noise" in verdict.sentence


def test_queue_rank_and_not_request_index_is_the_stratum(world: Any) -> None:
    def other_order(name: str, repeat: int, index: int) -> float:
        served_last_first = (1 - index) if name.endswith("c2") and repeat == 1 else index
        return float(slower(0.0)(name, repeat, served_last_first))

    assert verdict_of(world, ttft=other_order).rules[0].estimate == verdict_of(world).rules[0].estimate


def test_failed_check_is_invalid_with_the_checks_words_whatever_the_numbers(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(-0.5), result={"cached_tokens": 2048})
    assert verdict.verdict is Verdict.INVALID
    assert verdict.sentence.startswith("prompt was served from the prefix cache: 2,048 of")
    assert verdict.rules == []


def test_salt_switched_off_is_invalid_even_against_no_comparable_baseline(world: Any) -> None:
    gate = world.gate("request.salt=false")
    run = world.run(gate, result={"cached_tokens": 1792})
    verdict = decide(gate, run, world.baseline(world.run(world.gate())))
    assert verdict.verdict is Verdict.INVALID
    assert "1,792" in verdict.sentence


def test_server_that_died_is_invalid_and_says_how_to_resume(world: Any) -> None:
    verdict = verdict_of(world, died="killed by signal 9", batches_done=4)
    assert verdict.verdict is Verdict.INVALID
    assert verdict.sentence.startswith("server died (killed by signal 9): 4 of 12 batches measured; resume with")


def test_interrupted_run_is_inconclusive_and_says_how_far_it_came(world: Any) -> None:
    verdict = verdict_of(world, batches_done=11)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.sentence.startswith("interrupted: 11 of 12 batches measured; resume with --resume 2026")


def test_several_failed_checks_are_all_named(world: Any) -> None:
    verdict = verdict_of(world, result={"prompt_tokens": 100})
    assert verdict.sentence.endswith("(also failed: length_within)")


def test_unverified_cold_is_never_a_pass(world: Any) -> None:
    verdict = verdict_of(world, result={"cached_tokens": None})
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.sentence.startswith("cold is not verified")


def test_gate_may_allow_unverified_cold_and_then_says_so(world: Any) -> None:
    verdict = verdict_of(world, "validity.allow_unverified_cold=true", result={"cached_tokens": None})
    assert verdict.verdict is Verdict.PASS
    assert any("cold is not verified" in note for note in verdict.notes)


@pytest.mark.parametrize("allowed", [True, False])
def test_a_baseline_may_leave_unverified_what_the_gate_allows(world: Any, allowed: bool) -> None:
    gate = world.gate(f"validity.allow_unverified_cold={str(allowed).lower()}")
    run = world.run(gate, result={"cached_tokens": None})
    assert fit_for_baseline(gate, outcome_of(gate, run, None)) is allowed


def test_drifted_machine_is_inconclusive_even_for_a_slow_build(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.3), batch={"probe_ms": 65.0})
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.sentence == ("this machine runs the fixed CPU probe 30 % slower than when the baseline was measured")


def test_no_baseline_is_inconclusive(world: Any) -> None:
    gate = world.gate()
    verdict = decide(gate, world.run(gate), None)
    assert (verdict.verdict, verdict.sentence) == (Verdict.INCONCLUSIVE, "no baseline: INCONCLUSIVE")
    told = decide(gate, world.run(gate), None, baseline_refusal=["no baseline is called x"])
    assert told.sentence == "no baseline is called x: INCONCLUSIVE"


def test_baseline_of_another_machine_is_refused_with_all_reasons(world: Any) -> None:
    gate = world.gate()
    other = {"hardware": {"cpu": "another", "cores": 2, "gpus": [], "driver": None}, "weights": "trained"}
    baseline = world.baseline(world.run(gate, fingerprint=other))
    verdict = decide(gate, world.run(gate), baseline)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.sentence == (
        "not comparable with here: weights is random, in the baseline trained; "
        "hardware cpu is a cpu, in the baseline another: INCONCLUSIVE"
    )


def test_one_repeat_a_side_decides_nothing(world: Any) -> None:
    verdict = verdict_of(world, "repeats.count=1")
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "2 repeats in all show no noise, at least 4 are needed" in verdict.sentence


def test_metric_that_was_not_measurable_decides_nothing(world: Any) -> None:
    verdict = verdict_of(
        world,
        "rules.ttft.metric=tpot_decode_ms",
        result={"tpot_decode_ms": None},
        where=lambda r: r.index == 0,
    )
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "TPOT (decode) cannot be compared with here" in verdict.sentence


def test_injected_faults_are_noted_and_do_not_stop_the_comparison(world: Any) -> None:
    verdict = verdict_of(world, ttft=slower(0.19), fingerprint={"faults": ["prefill-delay-share=0.2"]})
    assert verdict.verdict is Verdict.FAIL
    assert any("prefill-delay-share=0.2" in note for note in verdict.notes)


def test_recall_of_random_weights_is_not_applicable_and_never_passed(world: Any) -> None:
    verdict = verdict_of(world)
    recall = next(rule for rule in verdict.rules if rule.rule == "recall")
    assert recall.verdict is Verdict.SKIPPED
    assert recall.sentence == "recall of the codes: not applicable (random weights)"


@pytest.mark.parametrize(("score", "expected"), [(1.0, Verdict.PASS), (0.9, Verdict.PASS), (0.5, Verdict.FAIL)])
def test_recall_is_judged_apart_from_latency(world: Any, score: float, expected: Verdict) -> None:
    gate = world.gate("request.ignore_eos=false")
    trained: dict[str, Any] = {"fingerprint": {"weights": "trained"}}
    run = world.run(gate, row={"answer": Answer(scores={"recall": score})}, **trained)
    verdict = decide(gate, run, world.baseline(world.run(gate, **trained)))
    rules = {rule.rule: rule for rule in verdict.rules if rule.cell is None}
    assert rules["ttft"].verdict is Verdict.PASS
    assert rules["recall"].verdict is expected
    assert verdict.verdict is expected
    if expected is Verdict.FAIL:
        assert "18 answers ended at max_tokens before all codes were given" in verdict.sentence


def test_a_reply_that_must_go_on_to_max_tokens_is_not_said_to_be_cut(world: Any) -> None:
    gate = world.gate("request.ignore_eos=true")
    run = world.run(gate, row={"answer": Answer(scores={"recall": 0.5})}, fingerprint={"weights": "trained"})
    recall = next(rule for rule in decide(gate, run, None).rules if rule.rule == "recall")
    assert recall.verdict is Verdict.FAIL
    assert "max_tokens" not in recall.sentence


def test_recall_that_nobody_scored_is_inconclusive(world: Any) -> None:
    trained: dict[str, Any] = {"fingerprint": {"weights": "trained"}}
    gate = world.gate()
    verdict = decide(gate, world.run(gate, **trained), world.baseline(world.run(gate, **trained)))
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "only 0 of 18 answers were scored" in verdict.sentence
