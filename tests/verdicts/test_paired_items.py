"""``paired_items``: the same questions against the baseline's answers, one by one, and when a run may end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from ds4bench.core import (
    Answer,
    CheckStatus,
    Fingerprint,
    RequestResult,
    RequestRow,
    RuleResult,
    RunData,
    ScriptRow,
    Verdict,
)
from ds4bench.spec.gate import GateSpec, parse_gate
from ds4bench.spec.load import EffectiveGate, effective, load_gate
from ds4bench.spec.rules import PairedItemsRule
from ds4bench.verdicts.blame import without_what_base_fails
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.early import decided_early
from ds4bench.verdicts.foresight import foresee
from ds4bench.verdicts.promotion import SuiteLine, promotion
from tests.records import baseline_of, batch_row, run_manifest

GATES = Path(__file__).parents[2] / "gates"
BOOLS = NDArray[np.bool_]
_FINGERPRINT = Fingerprint(engine="vllm", model="m", weights="trained")


def gate_of(profile: str, *overrides: str) -> EffectiveGate:
    return load_gate("gsm8k", profile=profile, overrides=overrides, directory=GATES)


def run_of(
    gate: EffectiveGate,
    scores: Sequence[Sequence[float]],
    *,
    name: str = "strict",
    weights: str = "trained",
    **result: Any,
) -> RunData:
    """A run of items in order, ``scores[item][repeat]``; only whole batches. ``result`` changes every reply."""
    requests, scripts, batches = [], [], []
    reply = RequestResult(ok=True, content="#### 1", finish_reason="stop", model="m", completion_tokens=9)
    reply = msgspec.structs.replace(reply, **result)
    for repeat in range(gate.spec.repeats.count):
        for cell in gate.spec.matrix.cells():
            first, last = int(cell.params.get("first", 0)), int(cell.params.get("last", len(scores) - 1))
            if last >= len(scores):
                break
            for place, number in enumerate(range(first, last + 1)):
                where: dict[str, Any] = {"cell": cell.id, "repeat": repeat, "attempt": 0, "phase": "measure"}
                answer = Answer(scores={name: float(scores[number][repeat])})
                scripts.append(ScriptRow(**where, script=place, key=f"test/{number}", requests=1, answer=answer))
                requests.append(RequestRow(**where, index=number, script=place, result=reply))
            size = last - first + 1
            batches.append(batch_row(**where, requests=size, delivered_concurrency=4.0))
    manifest = run_manifest(gate, fingerprint=msgspec.structs.replace(_FINGERPRINT, weights=weights))
    return RunData(manifest=manifest, requests=requests, scripts=scripts, batches=batches)


def once(answers: BOOLS | Sequence[float]) -> list[list[float]]:
    return [[float(answer)] for answer in answers]


def sequential(gate: EffectiveGate, candidate: BOOLS, baseline: BOOLS) -> tuple[int, RuleResult]:
    """As the runner does it: asked after every batch; (items asked, result of the rule)."""
    whole, stored = run_of(gate, once(candidate)), baseline_of(run_of(gate, once(baseline)))
    for cells in range(1, len(whole.batches) + 1):
        asked = {batch.cell for batch in whole.batches[:cells]}
        part = msgspec.structs.replace(
            whole,
            batches=whole.batches[:cells],
            scripts=[s for s in whole.scripts if s.cell in asked],
            requests=[r for r in whole.requests if r.cell in asked],
        )
        if reason := decided_early(gate, part, stored):
            part = msgspec.structs.replace(part, stopped=reason)
            break
    return len(part.scripts), decide(gate, part, stored).rules[0]


def test_an_unchanged_model_passes_early_and_the_sentence_says_why() -> None:
    rng = np.random.default_rng(1)
    baseline = rng.random(1319) < 0.955
    asked, result = sequential(gate_of("full"), baseline, baseline)
    assert (asked, result.verdict) == (400, Verdict.PASS)
    right = int(baseline[:400].sum())
    assert result.sentence == (
        f"strict {right / 4:.1f} % ({right} of 400), base {right / 4:.1f} % ({right} of 400) on the same items: 0 lost, "
        "0 won, +0.0 points (-0.7 to +0.7); margin 1.5 points, floor 92 %, published 94.8 to 96.5 %; "
        "a loss beyond the margin is excluded: PASS"
    )


def test_25_points_worse_fails_within_the_first_60_questions_in_the_median() -> None:
    gate, asked = gate_of("full", "matrix.limit=400"), []
    for seed in range(15):
        rng = np.random.default_rng(seed)
        baseline = rng.random(400) < 0.955
        count, result = sequential(gate, baseline & (rng.random(400) > 0.25), baseline)
        assert result.verdict is Verdict.FAIL
        asked.append(count)
    assert median(asked) <= 60


def test_a_floor_that_is_lost_fails_without_a_baseline_and_nothing_else_can_be_decided_then() -> None:
    gate, rng = gate_of("limit200"), np.random.default_rng(2)
    low = decide(gate, run_of(gate, once(rng.random(200) < 0.7)), None)
    assert low.verdict is Verdict.FAIL
    assert "floor 92 %" in low.sentence
    fine = decide(gate, run_of(gate, once(np.arange(200) > 6)), None)
    assert (fine.verdict, fine.rules[1].verdict) == (Verdict.INCONCLUSIVE, Verdict.PASS)
    assert "no baseline" in fine.sentence
    assert decided_early(gate, run_of(gate, once(np.arange(40) % 2)), None) is not None
    assert decided_early(gate, run_of(gate, once(np.ones(100))), None) is None


@pytest.mark.parametrize(
    ("right", "verdict"), [(185, Verdict.FAIL), (186, Verdict.INCONCLUSIVE), (200, Verdict.INCONCLUSIVE)]
)
def test_200_questions_fail_at_185_right_and_are_at_best_inconclusive(right: int, verdict: Verdict) -> None:
    gate = gate_of("limit200")
    run = run_of(gate, once(np.arange(200) < right))
    assert decide(gate, run, baseline_of(run)).verdict is verdict


FLOORED = ("rules.strict.floor=0.92", "rules.strict.early_stop=false")


def test_a_fail_by_the_floor_is_none_of_the_suites_comparisons() -> None:
    """Few more were lost than won, so McNemar's p is large, but the floor's exact test has decided."""
    gate = gate_of("smoke", *FLOORED)
    low = np.arange(60) < 40
    verdict = decide(gate, run_of(gate, once(low)), baseline_of(run_of(gate, once(np.arange(60) < 41))))
    assert verdict.verdict is Verdict.FAIL
    assert (verdict.rules[0].p, "under the floor" in verdict.sentence) == (None, True)
    line = SuiteLine("gsm8k", "smoke").with_verdict(verdict, "r")
    others = [RuleResult(rule="ttft", verdict=Verdict.PASS, sentence="", p=0.4) for _ in range(5)]
    suite = [line, *(SuiteLine("g", "smoke", Verdict.PASS, rules=(rule,)) for rule in others)]
    assert promotion(suite).verdict is Verdict.FAIL

    compared = decide(gate, run_of(gate, once(np.arange(60) < 58)), baseline_of(run_of(gate, once(np.ones(60)))))
    assert compared.rules[0].p is not None  # above the floor it takes part
    assert compared.rules[0].fail_alpha == 0.01


def test_a_base_as_far_under_the_floor_excuses_head_in_ci_unless_items_were_lost() -> None:
    gate = gate_of("smoke", *FLOORED)
    right = {name: np.arange(60) < count for name, count in {"base": 40, "same": 40, "worse": 20}.items()}
    runs = {name: run_of(gate, once(answers)) for name, answers in right.items()}
    alone = decide(gate, runs["base"], None)
    against = {name: decide(gate, runs[name], baseline_of(runs["base"])) for name in ("same", "worse")}
    assert {verdict.verdict for verdict in (alone, *against.values())} == {Verdict.FAIL}
    excused = {name: without_what_base_fails(gate.spec, verdict, alone, "abc") for name, verdict in against.items()}
    assert excused["same"].verdict is Verdict.INCONCLUSIVE
    assert "base abc fails it too" in excused["same"].sentence
    assert excused["worse"].verdict is Verdict.FAIL


def test_a_run_that_the_floor_stops_finds_the_same_bounds_when_it_is_compared_afterwards() -> None:
    """In ``ds4bench ci`` a run has no baseline while it is measured, and its verdict has one."""
    gate, stopped = gate_of("full", "matrix.limit=400"), 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        answers = rng.random(400) < 0.86
        whole = run_of(gate, once(answers))
        for cells in range(1, len(whole.batches) + 1):
            asked = {batch.cell for batch in whole.batches[:cells]}
            part = msgspec.structs.replace(
                whole, batches=whole.batches[:cells], scripts=[s for s in whole.scripts if s.cell in asked],
                requests=[r for r in whole.requests if r.cell in asked],
            )  # fmt: skip
            if reason := decided_early(gate, part, None):
                part = msgspec.structs.replace(part, stopped=reason)
                verdict = decide(gate, part, baseline_of(whole)).rules[0]
                assert (verdict.verdict, verdict.absolute) == (Verdict.FAIL, True)
                stopped += 1
                break
    assert stopped >= 6


def test_losses_and_gains_that_tie_are_no_loss() -> None:
    gate = gate_of("smoke")
    baseline = np.arange(60) % 2 == 0
    tied = baseline.copy()
    tied[:20] = ~tied[:20]
    result = decide(gate, run_of(gate, once(tied)), baseline_of(run_of(gate, once(baseline)))).rules[0]
    assert "10 lost, 10 won, +0.0 points" in result.sentence
    assert result.verdict is Verdict.INCONCLUSIVE  # 20 that differ of 60 leave room for a loss of 10 points
    fewer = baseline.copy()
    fewer[:2] = ~fewer[:2]
    assert decide(gate, run_of(gate, once(fewer)), baseline_of(run_of(gate, once(baseline)))).verdict is Verdict.PASS


def test_items_that_the_baseline_lacks_are_named_and_refuse_the_comparison() -> None:
    gate = gate_of("smoke")
    run = run_of(gate, once(np.ones(60)))
    short = baseline_of(run, scripts=[s for s in run.scripts if s.key not in ("test/3", "test/41")])
    result = decide(gate, run, short).rules[0]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "base has no strict for 2 of the 60 items (test/3, test/41)" in result.sentence
    other = [msgspec.structs.replace(s, key=f"train/{s.key}") for s in run.scripts]
    assert "60 of the 60 items" in decide(gate, run, baseline_of(run, scripts=other)).rules[0].sentence
    assert decided_early(gate, run, short) is None  # whole, it can be a baseline itself


def test_other_data_are_refused_before_any_item_is_compared() -> None:
    gate = gate_of("smoke")
    run = run_of(gate, once(np.ones(60)))
    stored = baseline_of(run, measurement={**run.manifest.measurement, "data": {"name": "gsm8k, task gsm8k v2"}})
    verdict = decide(gate, run, stored)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "not comparable with base" in verdict.sentence
    assert "gsm8k, task gsm8k v2" in verdict.sentence


def test_a_baseline_without_right_answers_shows_nothing_and_random_weights_do_not_apply() -> None:
    gate = gate_of("smoke")
    none = run_of(gate, once(np.zeros(60)))
    result = decide(gate, none, baseline_of(none)).rules[0]
    assert result.verdict is Verdict.INCONCLUSIVE
    assert "base itself has only 0.0 %, so a loss of 10 points could not be seen" in result.sentence
    random = run_of(gate, once(np.zeros(60)), weights="random")
    verdict = decide(gate, random, baseline_of(random))
    assert (verdict.verdict, verdict.rules[0].primary) == (Verdict.SKIPPED, False)


def test_an_item_without_a_score_is_no_wrong_answer() -> None:
    gate = gate_of("smoke")
    run = run_of(gate, once(np.ones(60)))
    scripts = [msgspec.structs.replace(run.scripts[7], answer=None), *run.scripts[:7], *run.scripts[8:]]
    torn = msgspec.structs.replace(run, scripts=scripts)
    verdict = decide(gate, torn, baseline_of(run))
    assert verdict.verdict is Verdict.INVALID
    assert "1 of 60 items were not answered" in verdict.sentence
    assert "test/7" in verdict.sentence


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({}, CheckStatus.OK),
        ({"finish_reason": "length"}, CheckStatus.FAILED),
        ({"content": " \n"}, CheckStatus.FAILED),
        ({"ok": False, "error": "no_tokens", "content": ""}, CheckStatus.FAILED),
    ],
)
def test_empty_and_cut_completions_make_a_run_invalid(result: dict[str, Any], status: CheckStatus) -> None:
    gate = gate_of("smoke")
    checks = {check.name: check for check in decide(gate, run_of(gate, once(np.ones(60)), **result), None).checks}
    assert checks["completions_whole"].status is status
    assert checks["all_items_answered"].status is CheckStatus.OK


def test_one_empty_completion_of_200_is_a_wrong_answer_only() -> None:
    gate = gate_of("limit200")
    run = run_of(gate, once(np.ones(200)))
    empty = msgspec.structs.replace(run.requests[5], result=RequestResult(ok=False, error="no_tokens", model="m"))
    verdict = decide(gate, msgspec.structs.replace(run, requests=[*run.requests[:5], empty, *run.requests[6:]]), None)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert next(c for c in verdict.checks if c.name == "completions_whole").detail.endswith("1 are empty")


def tool_gate() -> EffectiveGate:
    """The ToolCall-15 gate with its score paired: 15 scenarios in three modes, three rounds."""
    gate = load_gate("toolcall-15", directory=GATES)
    rule = {"name": "paired", "kind": "paired_items", "score": "v1-jasl", "scale": "fraction", "margin": 0.08}
    spec: GateSpec = parse_gate({**gate.spec.model_dump(mode="json"), "rules": [rule]})
    return effective(spec, "full")


def points(lost: int) -> list[list[float]]:
    """Fifteen scenarios, three rounds: mostly full points, a half here and there, ``lost`` scenarios at nothing."""
    return [[0.0] * 3 if n < lost else [1.0, 0.5 if n % 4 == 0 else 1.0, 1.0] for n in range(15)]


def judged(candidate: list[list[float]], baseline: list[list[float]]) -> RuleResult:
    from ds4bench.verdicts.evidence import gather
    from ds4bench.verdicts.rules.paired_items import judge

    gate = tool_gate()
    [rule] = gate.spec.rules
    assert isinstance(rule, PairedItemsRule)
    stored = baseline_of(run_of(gate, baseline, name="v1-jasl"))
    [result] = judge(rule, gather(gate, run_of(gate, candidate, name="v1-jasl"), stored))
    return result


def test_fractional_points_are_compared_scenario_by_scenario() -> None:
    same = judged(points(0), points(0))
    assert same.verdict is Verdict.PASS
    assert "over 15 items" in same.sentence  # a scenario in three modes is one
    worse = judged(points(8), points(0))
    assert worse.verdict is Verdict.FAIL
    assert worse.p is not None
    assert worse.p <= 0.01
    assert "8 worse, 0 better" in worse.sentence
    assert judged(points(2), points(0)).verdict is Verdict.INCONCLUSIVE


def test_fractional_scores_in_a_pass_fail_rule_are_said_to_be_in_the_wrong_place() -> None:
    gate = gate_of("smoke")
    run = run_of(gate, once([0.5] * 60))
    result = decide(gate, run, baseline_of(run)).rules[0]
    assert (result.verdict, "write scale: fraction" in result.sentence) == (Verdict.INCONCLUSIVE, True)


@pytest.mark.parametrize("wrong", [{"scale": "fraction", "early_stop": True}, {"band": [0.9, 0.8]}, {"margin": 0}])
def test_a_rule_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PairedItemsRule.model_validate({"kind": "paired_items", "name": "x", "score": "strict", "margin": 0.1, **wrong})


def test_what_the_number_of_items_allows_is_said_before_the_run() -> None:
    gate = gate_of("smoke")
    baseline = baseline_of(run_of(gate, [[1.0]] * 60))
    (sight,) = foresee(gate.spec, baseline)
    assert sight.sentence == (
        "strict: with 60 items this gate can see a loss of 14.7 points or more, if no other answer changes"
    )
    assert sight.refusal is None
    (full,) = foresee(gate_of("full").spec, baseline)
    assert full.sentence.startswith("strict: with 1319 items this gate can see a loss of 1.")
