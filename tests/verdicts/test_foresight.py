"""What is said before a run, calibrated noise, the one declared extension, and pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ds4bench.core import Noise, Verdict
from ds4bench.stats.decision import Spread
from ds4bench.stats.mde import minimum_detectable_effect
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.extension import as_measured, extended, extension_due, whole
from ds4bench.verdicts.foresight import foresee


def noise(repeat_cv: float, session: float, sessions: int = 5) -> Noise:
    return Noise(
        sessions=sessions, repeats=4.0, repeat_cv=repeat_cv, session_cv=session / 1.5, session_cv_upper=session,
        confidence=0.8, created="", runs=[],
    )  # fmt: skip


def noisy(world: Any, gate: Any, factor: float = 1.0, spread: float = 0.004, **changes: Any) -> Any:
    def ttft(cell: str, repeat: int, index: int) -> float:
        tokens = int(cell.removeprefix("p").partition("-")[0])
        return float(factor * tokens / 2000 * (index + 1) * math.exp(spread * (-1) ** repeat))

    return world.run(gate, ttft=ttft, **changes)


def test_what_the_gate_can_see_is_said_before_the_run_from_the_baselines_own_noise(world: Any) -> None:
    gate = world.gate(repeats=4)
    baseline = world.baseline(noisy(world, gate, spread=0.02))
    (sight,) = foresee(gate.spec, baseline)
    own = Spread(0.02 * math.sqrt(4 / 3), 4, 4, 0.015)
    least = 100 * minimum_detectable_effect(own)
    assert sight.sentence.startswith(
        f"ttft: with 4 repeats and the baseline's noise this gate can see a change of {least:.1f} %"
    )
    assert "`--repeats 9` would see" in sight.sentence
    assert sight.refusal is None
    assert foresee(gate.spec, None) == []


def test_a_margin_under_the_calibrated_noise_is_refused_with_that_sentence(world: Any) -> None:
    gate = world.gate(repeats=4)
    baseline = world.baseline(noisy(world, gate), noise={"ttft": noise(0.1, 0.05)})
    (sight,) = foresee(gate.spec, baseline)
    assert sight.refusal is not None
    assert sight.refusal.startswith(
        "margin 10 % is under what can be seen: with 4 repeats and the noise of 5 calibrated"
    )
    verdict = decide(gate, noisy(world, gate), baseline)
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert "margin 10 % is under what can be seen" in verdict.sentence


def test_a_proven_slowdown_fails_also_where_the_margin_is_too_narrow_to_pass(world: Any) -> None:
    gate = world.gate(repeats=4)
    baseline = world.baseline(noisy(world, gate), noise={"ttft": noise(0.1, 0.05)})
    assert decide(gate, noisy(world, gate, 2.0), baseline).verdict is Verdict.FAIL


def test_measured_session_noise_replaces_the_assumed_one(world: Any) -> None:
    gate = world.gate(repeats=4)
    run = noisy(world, gate, 1.01)
    assumed = decide(gate, run, world.baseline(noisy(world, gate)))
    measured = decide(gate, run, world.baseline(noisy(world, gate), noise={"ttft": noise(0.004, 0.002)}))
    widths = [math.log(v.rules[0].estimate.high / v.rules[0].estimate.low) for v in (assumed, measured)]
    assert widths[1] < widths[0] / 2
    assert any(
        "0.2 % that one build differs" in note and "calibrated over 5 sessions" in note for note in measured.notes
    )
    assert any("session_cv in the gate file" in note for note in assumed.notes)


def test_only_an_open_comparison_is_extended_and_only_where_it_was_declared(world: Any) -> None:
    declared = world.gate("repeats.extend_to=8", repeats=4)
    baseline = world.baseline(noisy(world, declared))
    cases = {1.08: True, 1.0: False, 1.5: False}
    for factor, due in cases.items():
        verdict = decide(declared, noisy(world, declared, factor), baseline)
        assert extension_due(declared, verdict) is due, factor
    open_verdict = decide(declared, noisy(world, declared, 1.08), baseline)
    assert not extension_due(world.gate(repeats=4), open_verdict)
    no_baseline = decide(declared, noisy(world, declared), None)
    assert not extension_due(declared, no_baseline)


def test_both_looks_hold_half_the_error_rate_each(world: Any) -> None:
    once, twice = world.gate(repeats=4), world.gate("repeats.extend_to=8", repeats=4)
    baseline = world.baseline(noisy(world, once))
    narrow, wide = (decide(gate, noisy(world, gate), baseline).rules[0].estimate for gate in (once, twice))
    assert wide.high > narrow.high
    assert twice.spec.repeats.looks == extended(twice).spec.repeats.looks == 2


def test_an_extended_run_is_judged_with_all_its_repeats_and_a_torn_extension_is_not_judged(world: Any) -> None:
    gate = world.gate("repeats.extend_to=8", repeats=4)
    longer = extended(gate)
    baseline = world.baseline(noisy(world, gate))
    run = noisy(world, longer)
    assert as_measured(gate, run).spec.repeats.count == 8
    assert whole(gate, run)
    assert decide(gate, run, baseline).rules[0].estimate.candidate_repeats == 8
    cells = len(gate.spec.matrix.cells())
    assert whole(gate, noisy(world, longer, batches_done=4 * cells))
    assert not whole(gate, noisy(world, longer, batches_done=4 * cells - 1))
    assert not whole(gate, noisy(world, longer, batches_done=4 * cells + 1))
    torn = decide(gate, noisy(world, longer, batches_done=4 * cells + 1), baseline)
    assert torn.verdict is Verdict.INCONCLUSIVE
    assert "interrupted: 17 of 32 batches" in torn.sentence


def test_more_repeats_than_the_extension_leave_it_without_effect(world: Any) -> None:
    assert world.gate("repeats.extend_to=8", repeats=9).spec.repeats.looks == 1


@pytest.mark.parametrize("together", [True, False])
def test_runs_that_were_interleaved_are_compared_in_pairs(world: Any, together: bool) -> None:
    gate = world.gate(repeats=4)

    def drifting(factor: float) -> Any:
        return lambda cell, repeat, index: factor * (1 + 0.2 * repeat) * int(cell[1:].partition("-")[0]) / 2000

    base, head = world.run(gate, ttft=drifting(1.0)), world.run(gate, ttft=drifting(1.25))
    baseline = world.baseline(base, interleaved_with=head.manifest.run_id if together else None)
    verdict = decide(gate, head, baseline)
    assert verdict.verdict is (Verdict.FAIL if together else Verdict.INCONCLUSIVE)
    assert any("pairs of repeats" in note for note in verdict.notes) is together


def test_session_noise_of_runs_in_turns_is_the_gates_own_figure(world: Any) -> None:
    gate = world.gate("rules.ttft.session_cv=0.1", "rules.ttft.interleaved_cv=0.01", repeats=4)
    head = noisy(world, gate, 1.25)
    in_turns = world.baseline(noisy(world, gate), interleaved_with=head.manifest.run_id)
    assert any("allow for 1.0 %" in note and "interleaved_cv" in note for note in decide(gate, head, in_turns).notes)
    assert decide(gate, head, in_turns).verdict is Verdict.FAIL
    alone = world.baseline(noisy(world, gate))
    assert any("allow for 10.0 %" in note and "session_cv" in note for note in decide(gate, head, alone).notes)
    assert decide(gate, head, alone).verdict is Verdict.INCONCLUSIVE
