"""Does the serve draft tokens, where the gate is about a serve that does?"""

from __future__ import annotations

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import failed, not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Evidence, cells_of

DRAFTED, ACCEPTED = "spec_draft_tokens", "spec_accepted_tokens"
"""Canonical names of the counters of draft tokens and of those that were accepted (targets/dialect.py)."""
_COUNT_WHAT_THEY_DRAFT = ("vllm", "embedded")
"""Parts of the names of engines that have these counters when they speculate, and only then."""


def speculation_effective(evidence: Evidence) -> CheckResult:
    """Draft tokens were made and some accepted, where the gate asks for speculation (``validity.speculates``).

    Without drafts the times are those of a plain decode, called by another name. A cell without drafts (some engines stop
    drafting when many requests run) is said; an engine that counts no drafts cannot be held to it.
    """
    name = "speculation_effective"
    if not evidence.spec.validity.speculates:
        return not_applicable(name, "the gate does not ask for speculative decoding")
    told = [batch for batch in evidence.batches if DRAFTED in batch.row.counters]
    if not told:
        return _without_counters(name, evidence)
    drafted = sum(batch.row.counters[DRAFTED] for batch in told)
    accepted = sum(batch.row.counters.get(ACCEPTED, 0.0) for batch in told)
    if not drafted:
        return failed(name, "the serve does not speculate: it drafted no token", told)
    if not accepted:
        return failed(name, f"the serve does not speculate: none of {drafted:,.0f} draft tokens was accepted", told)
    idle = set(cells_of(told)) - {batch.cell.id for batch in told if batch.row.counters[DRAFTED]}
    still = f"; none drafted in {', '.join(cell for cell in cells_of(told) if cell in idle)}" if idle else ""
    return ok(name, f"{accepted:,.0f} of {drafted:,.0f} draft tokens were accepted{still}")


def _without_counters(name: str, evidence: Evidence) -> CheckResult:
    fingerprint = evidence.run.manifest.fingerprint
    engine = fingerprint.engine.lower() if fingerprint else ""
    counts = any(batch.row.counters for batch in evidence.batches)
    if counts and any(part in engine for part in _COUNT_WHAT_THEY_DRAFT):
        return failed(name, "the serve does not speculate: it has no counters of draft tokens", evidence.batches)
    says = fingerprint.speculative if fingerprint else None
    own = f"it says that it speculates ({says}), but" if says else "the serve says nothing of speculation, and"
    return unverified(name, f"{own} no counter of draft tokens shows it")
