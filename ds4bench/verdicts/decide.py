"""From a run and a baseline to the verdict: validity first, then completeness, comparability, rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, CheckResult, CheckStatus, GateVerdict, RuleResult, RunData, Verdict
from ds4bench.verdicts.checks import NEVER_BLOCKS, run_checks
from ds4bench.verdicts.comparability import comparable
from ds4bench.verdicts.evidence import Evidence, gather
from ds4bench.verdicts.extension import as_measured
from ds4bench.verdicts.rules import judge
from ds4bench.verdicts.rules.comparison import Comparison, comparing_rules
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.load import EffectiveGate


def decide(
    gate: EffectiveGate,
    run: RunData,
    baseline: Baseline | None,
    *,
    baseline_refusal: Sequence[str] = (),
) -> GateVerdict:
    """The verdict of one gate run. Pure; raises nothing for bad data, which is what INVALID is for.

    A run that was extended is judged with all its repeats, as the second of two looks.

    ``baseline_refusal`` are the caller's own reasons against the baseline, or why there is none.
    """
    gate = as_measured(gate, run)
    refusal = list(baseline_refusal)
    if baseline is None:
        refusal = refusal or ["no baseline"]
    elif reasons := refusal + comparable(run.manifest, baseline):
        refusal = [f"not comparable with {baseline.name}: {'; '.join(reasons)}"]
    evidence = gather(gate, run, None if refusal else baseline, refusal)
    checks = run_checks(evidence)
    name = baseline.name if baseline else None
    if early := _not_to_be_judged(evidence, checks):
        verdict, sentence = early
        return GateVerdict(verdict=verdict, sentence=sentence, checks=checks, rules=[], baseline=name)
    rules = judge(evidence)
    verdict, sentence = _unverified(evidence, checks) or combine(rules)
    notes = _notes(evidence, checks)
    return GateVerdict(verdict=verdict, sentence=sentence, checks=checks, rules=rules, baseline=name, notes=notes)


def combine(rules: Sequence[RuleResult]) -> tuple[Verdict, str]:
    """The gate's verdict and sentence from its rules: any FAIL fails, else the primary rules decide.

    Rules that are not primary (single cells, a skipped recall) cannot turn a PASS into anything but FAIL.
    """
    failed = [rule for rule in rules if rule.verdict is Verdict.FAIL]
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        return Verdict.FAIL, failed[0].sentence + more
    primary = [rule for rule in rules if rule.primary]
    for verdict in (Verdict.INCONCLUSIVE, Verdict.PASS):
        for rule in primary:
            if rule.verdict is verdict:
                return verdict, rule.sentence
    return Verdict.SKIPPED, "; ".join(rule.sentence for rule in rules) or "no rule applies"


def _not_to_be_judged(evidence: Evidence, checks: Sequence[CheckResult]) -> tuple[Verdict, str] | None:
    """A run that is INVALID or not finished: its rules would say something about nothing."""
    failed = [check for check in checks if check.status is CheckStatus.FAILED]
    if failed:
        others = ", ".join(check.name for check in failed[1:])
        return Verdict.INVALID, failed[0].detail + (f" (also failed: {others})" if others else "")
    if not evidence.complete:
        return Verdict.INCONCLUSIVE, f"interrupted: {evidence.interruption}"
    return None


def left_unverified(spec: GateSpec, checks: Sequence[CheckResult]) -> list[CheckResult]:
    """The checks that could not be verified and that the gate cannot do without."""
    allowed = NEVER_BLOCKS | spec.validity.may_stay_unverified
    return [check for check in checks if check.status is CheckStatus.UNVERIFIED and check.name not in allowed]


def _unverified(evidence: Evidence, checks: Sequence[CheckResult]) -> tuple[Verdict, str] | None:
    """What could not be verified keeps a run from a verdict, unless the gate allows just that."""
    open_checks = left_unverified(evidence.spec, checks)
    return (Verdict.INCONCLUSIVE, open_checks[0].detail) if open_checks else None


def _notes(evidence: Evidence, checks: Sequence[CheckResult]) -> list[str]:
    """What a reader of the verdict should know beside it."""
    unverified = [check for check in checks if check.status is CheckStatus.UNVERIFIED]
    notes = [f"{check.name}: {check.detail}" for check in unverified if check.name not in NEVER_BLOCKS]
    notes += [reason for reason in evidence.refusal if evidence.baseline is None]
    if evidence.run.stopped:
        notes.append(f"the run was stopped early: {evidence.run.stopped}")
    notes += [f"before the run: {sight}" for sight in evidence.run.manifest.detectable]
    notes += _noise_notes(evidence)
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is not None and fingerprint.faults:
        notes.append(f"the serve says that faults are injected: {', '.join(fingerprint.faults)}")
    return notes


def _noise_notes(evidence: Evidence) -> list[str]:
    """How the intervals of each comparison were made."""
    if evidence.baseline is None:
        return []
    notes = []
    for rule in comparing_rules(evidence.spec):
        comparison = Comparison.of(rule, evidence, evidence.baseline)
        over = "pairs of repeats" if comparison.paired else "repeats"
        notes.append(
            f"rule {rule.name}: intervals are {percent(comparison.levels.confidence)} over {over} and allow for "
            f"{percent(comparison.session_cv, 1)} that one build differs from session to session ({_source(comparison)})"
        )
    return notes


def _source(comparison: Comparison) -> str:
    """Where a comparison has its session noise from."""
    if comparison.paired and comparison.rule.interleaved_cv is not None:
        return "interleaved_cv in the gate file"
    noise = comparison.noise
    return "session_cv in the gate file" if noise is None else f"calibrated over {noise.sessions} sessions"
