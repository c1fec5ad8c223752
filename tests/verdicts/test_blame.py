"""A commit is blamed for an absolute rule only if the commit before it keeps that rule."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.core import CheckResult, CheckStatus, Fingerprint, GateVerdict, RuleResult, RunData, Verdict
from ds4bench.interleaved import InterleavedRunner, Side
from ds4bench.paired_gate import GatePair
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import Outcome, Prepared, TargetOptions
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.spec.suite import SuiteEntry
from ds4bench.store.suite_runs import SuiteGate
from ds4bench.suite_runner import Job
from ds4bench.verdicts.blame import breaks_absolute_rule, without_what_base_fails
from ds4bench.verdicts.decide import combine
from ds4bench.verdicts.promotion import SuiteLine
from tests.records import batch_row, run_manifest

P, F, U, V = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.INVALID
GATE = load_gate("long-context", profile="smoke")  # ttft compares, recall and failures are absolute


def rule(name: str, verdict: Verdict, **changes: Any) -> RuleResult:
    return RuleResult(rule=name, verdict=verdict, sentence=f"{name} said: {verdict}", **changes)


def verdict_of(*rules: RuleResult, check: CheckStatus = CheckStatus.OK) -> GateVerdict:
    word, sentence = combine(rules)
    if check is CheckStatus.FAILED:
        word, sentence = V, "others used the machine"
    checks = [CheckResult(name="machine_quiet", status=check, detail="others used the machine")]
    return GateVerdict(verdict=word, sentence=sentence, checks=checks, rules=list(rules))


def blamed(head: GateVerdict, base: GateVerdict) -> GateVerdict:
    return without_what_base_fails(GATE.spec, head, base, "abc123")


def test_a_rule_that_the_base_fails_too_is_inconclusive_and_says_so() -> None:
    head = verdict_of(rule("ttft", P), rule("recall", F))
    found = blamed(head, verdict_of(rule("ttft", U), rule("recall", F)))
    assert found.verdict is U
    assert found.sentence == "base abc123 fails it too: recall said; here recall said: INCONCLUSIVE"


def test_a_rule_that_only_head_fails_is_a_fail_also_beside_one_that_both_fail() -> None:
    alone = verdict_of(rule("ttft", P), rule("recall", F))
    assert blamed(alone, verdict_of(rule("ttft", U), rule("recall", P))) == alone
    both = blamed(
        verdict_of(rule("recall", F), rule("failures", F)), verdict_of(rule("recall", F), rule("failures", P))
    )
    assert both.verdict is F and both.sentence.startswith("failures")


def test_another_cell_that_the_base_fails_excuses_nothing_and_a_single_cell_keeps_from_a_pass() -> None:
    head = verdict_of(rule("ttft", P), rule("recall", F, cell="a", primary=False))
    assert blamed(head, verdict_of(rule("recall", F, cell="b", primary=False))).verdict is F
    assert blamed(head, verdict_of(rule("recall", F, cell="a", primary=False))).verdict is U


def test_a_comparison_is_never_excused() -> None:
    head = verdict_of(rule("ttft", F), rule("recall", P))
    assert blamed(head, verdict_of(rule("ttft", F), rule("recall", P))) == head


def test_a_floor_is_absolute_and_the_comparison_of_the_same_rule_is_not() -> None:
    floor, lost = rule("strict", F, absolute=True), rule("strict", F)
    assert blamed(verdict_of(floor), verdict_of(floor)).verdict is U
    assert blamed(verdict_of(floor), verdict_of(rule("strict", U))).verdict is F
    assert blamed(verdict_of(lost), verdict_of(floor)).verdict is F
    assert breaks_absolute_rule(GATE.spec, verdict_of(floor)) and not breaks_absolute_rule(GATE.spec, verdict_of(lost))


SMALL = load_gate("toolcall-15", profile="smoke")  # nothing in it compares


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What each side's run is judged, by its role; ``asked`` and ``kept`` are filled in."""
    told: dict[str, Any] = {"asked": [], "kept": []}

    async def measure(prepared: Prepared, serve: Any, progress: Any, *, run_id: str, role: str) -> RunData:
        told["asked"].append((serve, role))
        cells = SMALL.spec.matrix.cells()
        return RunData(
            manifest=run_manifest(SMALL, run_id=run_id, target={"role": role}), requests=[],
            batches=[batch_row(cell.id) for cell in cells],
        )  # fmt: skip

    def judged(gate: Any, run: RunData, baseline: Any) -> Outcome:
        return Outcome(run, baseline, told[run.manifest.target["role"]])

    monkeypatch.setattr("ds4bench.interleaved.measure", measure)
    for module in ("interleaved", "paired_gate"):
        monkeypatch.setattr(f"ds4bench.{module}.judged", judged)
        monkeypatch.setattr(f"ds4bench.{module}.write_verdict", lambda run_id, verdict: told["kept"].append(verdict))
    return told


def runner_of(job: Job) -> InterleavedRunner:
    sides = [Side(TargetOptions("embedded"), label) for label in ("abc123", "def456")]
    return InterleavedRunner([job], sides[0], sides[1], "ci", SilentProgress())


def job_of(gate: EffectiveGate) -> Job:
    name = gate.spec.name
    return Job(SuiteEntry(gate=name), Prepared(gate, None), SuiteGate(gate=name, profile="smoke"))


async def line_of(measured: dict[str, Any]) -> SuiteLine:
    serves: Any = ["base serve", "head serve"]
    job = job_of(SMALL)
    return await runner_of(job)._gate(job, SuiteLine("toolcall-15", "smoke"), serves)


async def test_ci_measures_the_base_where_head_fails_a_gate_that_compares_nothing(measured: dict[str, Any]) -> None:
    measured |= {"candidate": verdict_of(rule("called", F)), "baseline": verdict_of(rule("called", F))}
    line = await line_of(measured)
    assert measured["asked"] == [("head serve", "candidate"), ("base serve", "baseline")]
    assert line.verdict is U and "base abc123 fails it too" in line.sentence
    assert measured["kept"][-1].verdict is U

    measured["baseline"] = verdict_of(rule("called", P))
    assert (await line_of(measured)).verdict is F


async def test_ci_does_not_measure_the_base_where_head_passes(measured: dict[str, Any]) -> None:
    measured |= {"candidate": verdict_of(rule("called", P))}
    assert (await line_of(measured)).verdict is P
    assert measured["asked"] == [("head serve", "candidate")]


async def test_ci_blames_nobody_when_the_base_could_not_be_measured(measured: dict[str, Any]) -> None:
    base = verdict_of(rule("called", P), check=CheckStatus.FAILED)
    measured |= {"candidate": verdict_of(rule("called", F)), "baseline": base}
    line = await line_of(measured)
    assert line.verdict is V and "base abc123 is not fit to compare with: others used the machine" in line.sentence


def test_an_absolute_rule_of_a_pair_that_the_base_fails_too_is_not_the_commits_fault(
    measured: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, told = GATE.spec, Fingerprint(engine="e", model="m")
    batches = [batch_row(cell.id, repeat=k) for cell in spec.matrix.cells() for k in range(spec.repeats.count)]
    base, head = (
        RunData(
            manifest=run_manifest(GATE, run_id=role, target={"role": role}, fingerprint=told),
            requests=[], batches=batches,
        )
        for role in ("baseline", "candidate")
    )  # fmt: skip
    monkeypatch.setattr("ds4bench.paired_gate.decide", lambda *_: verdict_of(rule("ttft", P), rule("recall", F)))
    serve: Any = None
    pair = GatePair(Prepared(GATE, None), serve, serve, "abc123", SilentProgress())
    for of_base, expected in ((F, U), (P, F)):
        measured["baseline"] = verdict_of(rule("ttft", U), rule("recall", of_base))
        assert pair._compare(base, head).verdict.verdict is expected
        assert measured["kept"][-1].verdict is expected
