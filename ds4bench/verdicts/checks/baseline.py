"""Can the run be compared with its baseline?"""

from __future__ import annotations

from ds4bench.core import Baseline, CheckResult, RunManifest
from ds4bench.verdicts.checks.results import not_applicable, ok, unverified
from ds4bench.verdicts.comparability import MACHINE, untold
from ds4bench.verdicts.evidence import Evidence


def comparable(evidence: Evidence) -> CheckResult:
    """Everything that changes what is measured is equal. If not, rules against the baseline do not decide; others do."""
    if evidence.baseline is not None:
        return ok("comparable", _what_is_same(evidence.run.manifest, evidence.baseline))
    if any(reason.startswith("not comparable") for reason in evidence.refusal):
        return unverified("comparable", "; ".join(evidence.refusal))
    return not_applicable("comparable", "no baseline")


def _what_is_same(manifest: RunManifest, baseline: Baseline) -> str:
    """With what it rests on: a serve of somebody else's tells little of itself."""
    open_questions = (
        untold(manifest.fingerprint, baseline.fingerprint, manifest.measurement) if manifest.fingerprint else []
    )
    same = "measurement and model" if MACHINE in open_questions else "measurement, model and machine"
    rest = f"; not compared, because a serve does not tell: {', '.join(open_questions)}" if open_questions else ""
    return f"same {same} as {baseline.name}{rest}"
