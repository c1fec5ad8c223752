"""``zero_failures``: no request may fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds4bench.core import RuleResult, Verdict
from ds4bench.verdicts.evidence import Evidence

if TYPE_CHECKING:
    from ds4bench.spec.rules import ZeroFailuresRule


def judge(rule: ZeroFailuresRule, evidence: Evidence) -> list[RuleResult]:
    """No request failed. (A failed one also makes the run INVALID; as a rule it stands in the record.)"""
    total = sum(batch.row.requests for batch in evidence.batches)
    failed = total - sum(len(batch.answered) for batch in evidence.batches)
    verdict = Verdict.FAIL if failed else Verdict.PASS
    return [RuleResult(rule=rule.name, verdict=verdict, sentence=f"{failed} of {total} requests failed: {verdict}")]
