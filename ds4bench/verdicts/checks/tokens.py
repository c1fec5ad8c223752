"""Are the completion tokens that replies claim those that the serve counted itself?"""

from __future__ import annotations

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import failed, not_applicable, ok
from ds4bench.verdicts.evidence import Batch, Evidence

MADE = "generation_tokens"
"""Canonical name of the counter of generated tokens (targets/dialect.py)."""
_AGREE = 0.02


def token_counts_agree(evidence: Evidence) -> CheckResult:
    """``completion_tokens`` of all replies of a batch are what the serve's own counter rose by.

    Every time per token divides by the count in usage: a count that is too large makes a serve look fast. An engine may
    count a reply's end token in one place and not in the other, so one token a reply is allowed. A batch with a failed
    request says nothing, since its tokens were counted and not told.
    """
    name = "token_counts_agree"
    whole = [batch for batch in evidence.batches if MADE in batch.row.counters and _told(batch)]
    if not whole:
        return not_applicable(name, "the serve has no counter of generated tokens beside usage (or no usage)")
    wrong = [batch for batch in whole if _apart(batch) > _AGREE * batch.row.counters[MADE] + len(batch.requests)]
    if wrong:
        batch = max(wrong, key=_apart)
        detail = (
            f"usage says {_claimed(batch):,} completion tokens in {batch.cell.id}, the serve's counter rose by "
            f"{batch.row.counters[MADE]:,.0f}; does somebody else use the serve?"
        )
        return failed(name, detail, wrong)
    most = max(_apart(batch) for batch in whole)
    return ok(name, f"usage and the serve's counter agree within {most:,.0f} tokens in {len(whole)} batches")


def _told(batch: Batch) -> bool:
    return bool(batch.requests) and all(
        row.result.ok and row.result.completion_tokens is not None for row in batch.requests
    )


def _claimed(batch: Batch) -> int:
    return sum(row.result.completion_tokens or 0 for row in batch.requests)


def _apart(batch: Batch) -> float:
    return abs(_claimed(batch) - batch.row.counters[MADE])
