"""Rules other than the ratio, early stopping, and the checks that belong to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from ds4bench.calibration_runs import noise_of
from ds4bench.core import (
    Answer,
    CheckStatus,
    Fingerprint,
    RequestResult,
    RunData,
    ScriptRow,
    Verdict,
)
from ds4bench.spec.base import ItemBatches
from ds4bench.spec.load import EffectiveGate, effective, load_gate
from ds4bench.trust import timings
from ds4bench.verdicts.checks import run_checks
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.early import decided_early, may_stop
from ds4bench.verdicts.evidence import gather
from ds4bench.verdicts.foresight import foresee
from tests.records import baseline_of, batch_row, request_row, run_manifest

GATES = Path(__file__).parents[2] / "gates"
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic serializer")  # items in a matrix that was made for lengths


def gate(*overrides: str, name: str = "random", repeats: int = 4) -> EffectiveGate:
    return load_gate(name, profile="smoke", repeats=repeats, overrides=overrides, directory=GATES)


def run(effective_gate: EffectiveGate, tpot: Any, *, weights: str = "trained", **result: Any) -> RunData:
    """A run of two requests a batch; ``tpot(cell, repeat, index)`` in ms."""
    requests, batches = [], []
    for repeat in range(effective_gate.spec.repeats.count):
        for cell in effective_gate.spec.matrix.cells():
            for index in range(2):
                ms = tpot(cell.id, repeat, index)
                values = {
                    "ok": True, "ttft_s": 0.5, "e2e_s": 0.5 + 15 * ms / 1000, "tpot_ms": ms, "tpot_decode_ms": ms,
                    "prompt_tokens": 256, "completion_tokens": 16, "cached_tokens": 0, "model": "m", **result,
                }  # fmt: skip
                requests.append(
                    request_row(
                        cell.id, repeat=repeat, index=index, script=index, result=RequestResult(**values),
                        expect={"prompt_tokens": 256},
                    )
                )  # fmt: skip
            batches.append(batch_row(cell.id, repeat=repeat, requests=2, delivered_concurrency=float(cell.concurrency)))
    manifest = run_manifest(effective_gate, fingerprint=Fingerprint(engine="e", model="m", weights=weights))
    return RunData(manifest=manifest, requests=requests, batches=batches)


def steady(factor: float = 1.0, cell: str = "", spread: float = 0.002) -> Any:
    def tpot(name: str, repeat: int, index: int) -> float:
        return 20.0 * (1 + spread * ((repeat + index) % 3 - 1)) * (factor if cell in name else 1.0)

    return tpot


def judged(factor: float = 1.0, cell: str = "", spread: float = 0.002, *overrides: str) -> Any:
    effective_gate = gate(
        "rules.tpot.margin=0.03", "rules.tpot.cell_margin=0.08", "rules.tpot.session_cv=0.005", *overrides
    )
    base = baseline_of(run(effective_gate, steady()))
    return decide(effective_gate, run(effective_gate, steady(factor, cell, spread)), base)


def test_the_geometric_mean_over_cells_is_the_endpoint() -> None:
    verdict = judged(1.01)
    assert verdict.verdict is Verdict.PASS
    assert verdict.sentence.startswith("TPOT (decode) is 1.0 % (+-")
    assert "slower than base (geometric mean over cells), replies 0.0 % longer; margin 3 %" in verdict.sentence
    assert judged(1.06).verdict is Verdict.FAIL
    assert judged(1.025).verdict is Verdict.INCONCLUSIVE


def test_one_slow_cell_fails_after_holm_though_the_mean_would_pass() -> None:
    verdict = judged(1.2, "c1", 0.002, "rules.tpot.margin=0.2")
    assert verdict.rules[0].verdict is Verdict.PASS
    assert verdict.verdict is Verdict.FAIL
    assert verdict.sentence.startswith("p256-c1: TPOT (decode) is 20.0 %")
    assert "(Holm): FAIL" in verdict.sentence


def test_noise_above_half_the_margin_takes_the_pass_away() -> None:
    verdict = judged(0.8, spread=0.05)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "the margin is under twice the noise" in verdict.sentence


def test_an_unchanged_build_is_hardly_ever_failed() -> None:
    effective_gate, rng, failed = gate("rules.tpot.session_cv=0.0"), np.random.default_rng(4), 0

    def noisy(name: str, repeat: int, index: int) -> float:
        return float(20 * np.exp(rng.normal(0, 0.03)))

    for _ in range(200):
        base = baseline_of(run(effective_gate, noisy))
        failed += decide(effective_gate, run(effective_gate, noisy), base).verdict is Verdict.FAIL
    assert failed <= 2


def test_one_repeat_shows_no_noise() -> None:
    effective_gate = gate(repeats=1)
    verdict = decide(effective_gate, run(effective_gate, steady()), baseline_of(run(effective_gate, steady())))
    assert "2 repeats in all show no noise, at least 4 are needed" in verdict.sentence


def test_a_metric_that_most_replies_lack_decides_nothing() -> None:
    effective_gate = gate()
    base = baseline_of(run(effective_gate, steady()))
    verdict = decide(effective_gate, run(effective_gate, steady(), tpot_decode_ms=None, tpot_ms=None), base)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert (
        "TPOT (decode) cannot be compared with base: 2 of 2 requests of p256-c1 have no such value" in verdict.sentence
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "silent"),
    [(False, True, "the serve sends"), (True, False, "the baseline's serve sends"), (False, False, "both serves send")],
)
@pytest.mark.parametrize("name", ["random", "mt-bench"])
def test_where_a_serve_sends_no_running_usage_both_sides_are_judged_by_tpot(
    name: str, ours: bool, theirs: bool, silent: str
) -> None:
    effective_gate = gate("rules.tpot.margin=0.03", "rules.tpot.session_cv=0.005", name=name)

    def side(factor: float, tells: bool) -> RunData:
        # another time per token where it is told: compared with the other side's TPOT it would be 20 % off
        decode = {"tpot_decode_ms": 24.0} if tells else {"tpot_decode_ms": None}
        return run(effective_gate, steady(factor, "c"), **decode)

    base = baseline_of(side(1.0, theirs))
    same = decide(effective_gate, side(1.01, ours), base)
    assert same.verdict is Verdict.PASS
    assert same.sentence.startswith("TPOT is 1.0 % (+-")
    assert f"TPOT from the first chunk on ({silent} no running usage)" in same.sentence
    assert decide(effective_gate, side(1.1, ours), base).verdict is Verdict.FAIL


def test_where_both_serves_send_running_usage_nothing_stands_in_for_tpot_decode() -> None:
    effective_gate = gate()
    done = run(effective_gate, steady(), tpot_ms=99.0)
    verdict = decide(effective_gate, done, baseline_of(done))
    assert verdict.sentence.startswith("TPOT (decode) is 0.0 %")
    assert "running usage" not in verdict.sentence


def test_what_a_gate_can_see_is_said_too_where_the_baselines_serve_sends_no_running_usage() -> None:
    effective_gate = gate()
    told, silent = (run(effective_gate, steady(), **more) for more in ({}, {"tpot_decode_ms": None}))
    sights = [foresee(effective_gate.spec, baseline_of(side)) for side in (told, silent)]
    assert sights[0]
    assert sights[0] == sights[1]


def test_noise_is_calibrated_by_tpot_in_all_sessions_where_one_had_no_running_usage() -> None:
    effective_gate = gate()
    sessions = [run(effective_gate, steady(), tpot_decode_ms=value) for value in (24.0, None, 24.0)]
    (found,) = noise_of(effective_gate, sessions)
    assert found.noise.session_cv < 0.01  # and not the 20 % between the two kinds of TPOT


def test_timings_for_simulations_are_by_tpot_where_a_run_had_no_running_usage() -> None:
    effective_gate = gate()
    runs = [run(effective_gate, steady(spread=0.0), tpot_decode_ms=value) for value in (24.0, None)]
    (kept,) = timings.of_runs(runs)
    assert kept.metric == "tpot_ms"
    assert {round(value, 6) for row in kept.values for value in row} == {20.0}


@pytest.mark.parametrize(
    ("rule", "expected", "part"),
    [
        ("measure: ttft_mean_s, at_most: 0.6", Verdict.PASS, "ttft_mean_s is 0.5 in"),
        ("measure: ttft_mean_s, at_most: 0.4", Verdict.FAIL, "at most 0.4 is asked"),
        ("measure: decode_tok_s, at_least: 40", Verdict.PASS, "at least 40 is asked"),
        ("measure: decode_tok_s, at_least: 60", Verdict.FAIL, "decode_tok_s is 50 in"),
        ("measure: acceptance_length, at_least: 1.5", Verdict.INCONCLUSIVE, "cannot be measured in p256-c1, p256-c4"),
        ("measure: ttft_p99_s, at_most: 1", Verdict.INCONCLUSIVE, "ttft_p99_s cannot be measured"),
        ("measure: acceptance_length, at_least: 1.5, missing: skip", Verdict.SKIPPED, "not applicable"),
    ],
)
def test_a_limit_holds_for_the_worst_cell(rule: str, expected: Verdict, part: str) -> None:
    effective_gate = gate(f"rules=[{{name: limit, kind: limit, {rule}}}]", repeats=1)
    verdict = decide(effective_gate, run(effective_gate, steady(spread=0.0)), None)
    assert verdict.verdict is expected
    assert part in verdict.sentence


def items_gate(limit: int = 100, threshold: float = 0.9) -> EffectiveGate:
    """A gate of scored items; no shipped workload has some yet, so a shipped gate gets their matrix."""
    base = gate(f"rules=[{{name: exact, kind: score, score: exact, threshold: {threshold}}}]", repeats=1).spec
    rules = [rule.model_copy(update={"early_stop": True}) for rule in base.rules]
    matrix = ItemBatches(limit=limit, batch=10, concurrency=4)
    return effective(base.model_copy(update={"matrix": matrix, "rules": rules}), "smoke")


def items_run(effective_gate: EffectiveGate, right: list[bool], *, stopped: str | None = None) -> RunData:
    cells = effective_gate.spec.matrix.cells()[: len(right) // 10]
    done = run(effective_gate, steady())
    scripts, requests = [], []
    for cell in cells:
        for number in range(10):
            item = int(cell.params["first"]) + number
            requests.append(msgspec.structs.replace(done.requests[0], cell=cell.id, index=number, script=number))
            scripts.append(
                ScriptRow(
                    cell=cell.id, repeat=0, attempt=0, phase="measure", script=number, key=f"test/{item}", requests=1,
                    answer=Answer(scores={"exact": float(right[item])}),
                )
            )  # fmt: skip
    batches = [msgspec.structs.replace(done.batches[0], cell=cell.id, requests=10) for cell in cells]
    batches = [msgspec.structs.replace(b, delivered_concurrency=4.0) for b in batches]
    return msgspec.structs.replace(done, requests=requests, batches=batches, scripts=scripts, stopped=stopped)


def test_a_run_stops_when_no_item_can_change_the_outcome() -> None:
    effective_gate = items_gate()
    assert may_stop(effective_gate.spec)
    bad = [False] * 11 + [True] * 89
    assert decided_early(effective_gate, items_run(effective_gate, bad[:10]), None) is None
    reason = decided_early(effective_gate, items_run(effective_gate, bad[:20]), None)
    assert reason == "after 20 of 100 items exact cannot reach 90 % any more"
    good = [True] * 90
    assert decided_early(effective_gate, items_run(effective_gate, good[:80]), None) is None
    reason = decided_early(effective_gate, items_run(effective_gate, good), None)
    assert reason == "after 90 of 100 items exact cannot fall under 90 % any more"


@pytest.mark.parametrize("seed", range(20))
def test_a_stopped_run_has_the_verdict_of_the_whole_one(seed: int) -> None:
    effective_gate = items_gate(threshold=0.5)
    right = list(np.random.default_rng(seed).random(100) < np.random.default_rng(seed + 99).uniform(0.2, 0.8))
    whole = decide(effective_gate, items_run(effective_gate, right), None).verdict
    for done in range(10, 110, 10):
        part = items_run(effective_gate, right[:done])
        reason = decided_early(effective_gate, part, None)
        if reason is not None:
            stopped = decide(effective_gate, msgspec.structs.replace(part, stopped=reason), None)
            assert stopped.verdict is whole
            assert any("stopped early" in note for note in stopped.notes)
            return
    pytest.fail("a complete run decides nothing")


def test_an_unfinished_run_that_was_not_stopped_stays_interrupted() -> None:
    effective_gate = items_gate()
    verdict = decide(effective_gate, items_run(effective_gate, [True] * 50), None)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.sentence.startswith("interrupted: 5 of 10 batches")


def test_a_score_of_random_weights_is_skipped_unless_the_rule_judges_them() -> None:
    effective_gate = items_gate(limit=10)
    done = items_run(effective_gate, [True] * 10)
    fingerprint = Fingerprint(engine="e", model="m", weights="random")
    blind = msgspec.structs.replace(done, manifest=msgspec.structs.replace(done.manifest, fingerprint=fingerprint))
    assert decide(effective_gate, blind, None).verdict is Verdict.SKIPPED
    assert decide(effective_gate, done, None).verdict is Verdict.PASS


def test_rows_of_a_torn_script_that_was_run_again_do_not_count() -> None:
    effective_gate = items_gate(limit=10)
    done = items_run(effective_gate, [True] * 10)
    torn = msgspec.structs.replace(done.requests[3], turn=1, result=RequestResult(ok=False, error="disconnect"))
    older = msgspec.structs.replace(done.requests[3], result=RequestResult(ok=False, error="disconnect"))
    evidence = gather(effective_gate, msgspec.structs.replace(done, requests=[older, torn, *done.requests]), None)
    assert len(evidence.batches[0].requests) == 10
    assert all(row.result.ok for row in evidence.batches[0].requests)


def status(name: str, effective_gate: EffectiveGate, done: RunData) -> CheckStatus:
    return next(c.status for c in run_checks(gather(effective_gate, done, None)) if c.name == name)


@pytest.mark.parametrize(
    ("thinking", "result", "expected"),
    [
        ("true", {"reasoning": "Let me see."}, CheckStatus.OK),
        ("true", {"reasoning_tokens": 7}, CheckStatus.OK),
        ("true", {}, CheckStatus.FAILED),
        ("false", {}, CheckStatus.OK),
        ("false", {"reasoning": "Let me see."}, CheckStatus.FAILED),
        ("null", {"reasoning": "Let me see."}, CheckStatus.NOT_APPLICABLE),
    ],
)
def test_a_thinking_switch_that_is_ignored_makes_the_run_invalid(
    thinking: str, result: dict[str, Any], expected: CheckStatus
) -> None:
    effective_gate = gate(f"request.thinking={thinking}", name="mt-bench")
    assert status("mode_effective", effective_gate, run(effective_gate, steady(), **result)) is expected


def test_completions_have_no_thinking_switch_to_judge() -> None:
    effective_gate = gate("request.thinking=true", "request.endpoint=completions", name="mt-bench")
    assert status("mode_effective", effective_gate, run(effective_gate, steady())) is CheckStatus.NOT_APPLICABLE


def drafting(engine: str, *counters: dict[str, float]) -> RunData:
    """A run of mt-bench on a serve that counts so in each batch, the last for all further ones."""
    done = run(gate(name="mt-bench"), steady())
    told = [counters[min(place, len(counters) - 1)] for place in range(len(done.batches))]
    batches = [msgspec.structs.replace(batch, counters=more) for batch, more in zip(done.batches, told, strict=True)]
    manifest = msgspec.structs.replace(
        done.manifest, fingerprint=Fingerprint(engine=engine, model="m", speculative="s")
    )
    return msgspec.structs.replace(done, batches=batches, manifest=manifest)


NOTHING, SOME = {"spec_draft_tokens": 0.0, "spec_accepted_tokens": 0.0}, {"generation_tokens": 32.0}
HALF, IN_VAIN = {"spec_draft_tokens": 8.0, "spec_accepted_tokens": 4.0}, {**NOTHING, "spec_draft_tokens": 8.0}


@pytest.mark.parametrize(
    ("engine", "counters", "expected", "part"),
    [
        ("vllm", [HALF], CheckStatus.OK, "32 of 64 draft tokens were accepted"),
        ("vllm", [NOTHING, HALF, NOTHING], CheckStatus.OK, "accepted; none drafted in mtbench-c1"),
        ("vllm", [NOTHING], CheckStatus.FAILED, "the serve does not speculate: it drafted no token"),
        ("vllm", [IN_VAIN], CheckStatus.FAILED, "does not speculate: none of 64 draft tokens was accepted"),
        ("vllm", [SOME], CheckStatus.FAILED, "does not speculate: it has no counters of draft tokens"),
        ("ds4bench-embedded", [SOME], CheckStatus.FAILED, "does not speculate: it has no counters of draft tokens"),
        ("vllm", [{}], CheckStatus.UNVERIFIED, "it says that it speculates (s), but no counter"),
        ("sglang", [SOME], CheckStatus.UNVERIFIED, "it says that it speculates (s), but no counter"),
    ],
)
def test_a_gate_about_speculation_is_invalid_on_a_serve_that_does_not_speculate(
    engine: str, counters: list[dict[str, float]], expected: CheckStatus, part: str
) -> None:
    effective_gate, done = gate("validity.speculates=true", name="mt-bench"), drafting(engine, *counters)
    found = next(c for c in run_checks(gather(effective_gate, done, None)) if c.name == "speculation_effective")
    assert found.status is expected
    assert part in found.detail
    assert (decide(effective_gate, done, None).verdict is Verdict.INVALID) is (expected is CheckStatus.FAILED)
    assert status("speculation_effective", gate(name="mt-bench"), done) is CheckStatus.NOT_APPLICABLE


def test_a_serve_that_ignores_ignore_eos_makes_the_run_invalid() -> None:
    effective_gate = gate()
    assert status("full_length_replies", effective_gate, run(effective_gate, steady())) is CheckStatus.OK
    short = run(effective_gate, steady(), completion_tokens=9)
    assert status("full_length_replies", effective_gate, short) is CheckStatus.FAILED
    assert decide(effective_gate, short, None).verdict is Verdict.INVALID
    free = gate("request.ignore_eos=false")
    assert status("full_length_replies", free, run(free, steady(), completion_tokens=9)) is CheckStatus.NOT_APPLICABLE


def test_a_baseline_of_another_measurement_shows_as_not_comparable_and_leaves_absolute_rules_alone() -> None:
    effective_gate = gate("rules.failures={name: failures, kind: limit, measure: ttft_mean_s, at_most: 0.1}")
    other = baseline_of(run(gate("seed=3"), steady()))
    verdict = decide(effective_gate, run(effective_gate, steady()), other)
    check = next(check for check in verdict.checks if check.name == "comparable")
    assert check.status is CheckStatus.UNVERIFIED
    assert "seed" in check.detail
    assert verdict.verdict is Verdict.FAIL  # the absolute limit needs no baseline
