"""The proof that "cold" was cold: what the serve says it took from its prefix cache."""

from __future__ import annotations

from collections.abc import Sequence

from ds4bench.core import CheckResult, CheckStatus, RequestResult
from ds4bench.verdicts.evidence import Batch, Evidence, cells_of

HITS = "prefix_cache_hits"
"""Canonical name of the counter of prompt tokens served from the prefix cache (targets/dialect.py)."""

_HINTS = {
    "vllm": "start vLLM with --enable-prompt-tokens-details",
    "sglang": "start SGLang with --enable-cache-report",
}


def cold_verified(evidence: Evidence) -> CheckResult:
    """No prompt token of a measured request came from the prefix cache.

    Two sources: ``cached_tokens`` in the usage of every request, and the serve's own counters around every
    batch. One is enough; where both are there they must agree, because a usage field can be filled with a
    constant 0.
    """
    if not evidence.spec.validity.cold:
        return _result(CheckStatus.NOT_APPLICABLE, "the gate does not ask for cold prompts")
    warm = [batch for batch in evidence.batches if _cached(batch)]
    if warm:
        return _result(CheckStatus.FAILED, _warm_detail(warm), warm)
    told = all(row.result.cached_tokens is not None for _, row in evidence.answered())
    counted = all(HITS in batch.row.counters for batch in evidence.batches)
    hit = [batch for batch in evidence.batches if batch.row.counters.get(HITS, 0) > 0]
    if hit:
        tokens = sum(batch.row.counters[HITS] for batch in hit)
        lead = "usage says 0 cached tokens, but " if told else ""
        return _result(
            CheckStatus.FAILED,
            f"prompt was served from the prefix cache: {lead}the serve's counter rose by {tokens:,.0f} "
            f"tokens in {', '.join(cells_of(hit))}; the prompts are not cold, "
            "or somebody else uses the serve",
            hit,
        )
    if told:
        source = "usage and the serve's counters agree" if counted else "usage of every request"
        return _result(CheckStatus.OK, f"0 cached tokens ({source})")
    if counted:
        return _result(CheckStatus.OK, "0 cached tokens (the serve's prefix-cache counters)")
    return _result(CheckStatus.UNVERIFIED, f"cold is not verified: {_hint(evidence)}")


def _cached(batch: Batch) -> int:
    return max((row.result.cached_tokens or 0 for row in batch.answered), default=0)


def _warm_detail(warm: Sequence[Batch]) -> str:
    worst: dict[str, RequestResult] = {}
    for batch in warm:
        row = max(batch.answered, key=lambda row: row.result.cached_tokens or 0)
        found = worst.get(batch.cell.id)
        if found is None or (row.result.cached_tokens or 0) > (found.cached_tokens or 0):
            worst[batch.cell.id] = row.result
    parts = [
        f"{result.cached_tokens or 0:,} of {result.prompt_tokens or 0:,} tokens cached in cell {cell}"
        for cell, result in worst.items()
    ]
    requests = sum(bool(row.result.cached_tokens) for batch in warm for row in batch.answered)
    return (
        f"prompt was served from the prefix cache: {', '.join(parts)} ({requests} requests); "
        "the prompts are not cold: is request.salt off?"
    )


def _hint(evidence: Evidence) -> str:
    fingerprint = evidence.run.manifest.fingerprint
    engine = fingerprint.engine.lower() if fingerprint else ""
    flag = next((hint for name, hint in _HINTS.items() if name in engine), None)
    if flag is None:
        flag = "; ".join(_HINTS.values())
    return f"the serve tells cached tokens neither in usage nor in /metrics; {flag}"


def _result(status: CheckStatus, detail: str, batches: Sequence[Batch] = ()) -> CheckResult:
    return CheckResult(name="cold_verified", status=status, detail=detail, cells=cells_of(batches))
