"""Can the run be compared with its baseline?"""

from __future__ import annotations

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Evidence


def comparable(evidence: Evidence) -> CheckResult:
    """Everything that changes what is measured is equal. If not, rules against the baseline do not decide; others do."""
    if evidence.baseline is not None:
        return ok("comparable", f"same measurement, model and machine as {evidence.baseline.name}")
    if any(reason.startswith("not comparable") for reason in evidence.refusal):
        return unverified("comparable", "; ".join(evidence.refusal))
    return not_applicable("comparable", "no baseline")
