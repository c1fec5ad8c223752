"""What the serve says of its prefix-cache hits: is it told, do two sources agree, and can it be true?"""

from __future__ import annotations

from ds4bench.core import CheckResult
from ds4bench.prefix_hits import ideal_of
from ds4bench.verdicts.checks.cold import HITS
from ds4bench.verdicts.checks.results import failed, names, not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence
from ds4bench.verdicts.wording import percent

_AGREE = 0.01
"""Of the prompt tokens of a batch: a preempted request is looked up twice."""


def hits_reported(evidence: Evidence) -> CheckResult:
    """Every reply says how many tokens of its prompt came from the cache."""
    rows = [row for _, row in evidence.answered()]
    silent = sum(row.result.cached_tokens is None or row.result.prompt_tokens is None for row in rows)
    if silent:
        hint = "start vLLM with --enable-prompt-tokens-details, SGLang with --enable-cache-report"
        return unverified(
            "hits_reported", f"{silent} of {len(rows)} replies do not tell cached_tokens in usage; {hint}"
        )
    sizes = {f"{row.expect.get('block_size')} ({row.expect.get('block_size_from')})" for row in rows}
    return ok("hits_reported", f"usage of {len(rows)} replies; block of {', '.join(sorted(sizes))} tokens")


def hit_sources_agree(evidence: Evidence) -> CheckResult:
    """``cached_tokens`` of all replies of a batch are what the serve's own counter rose by."""
    name = "hit_sources_agree"
    counted = [batch for batch in evidence.batches if HITS in batch.row.counters]
    told = [batch for batch in counted if all(row.result.cached_tokens is not None for row in batch.answered)]
    if not told:
        return not_applicable(name, "the serve has no prefix-cache counters beside usage (or no usage)")
    apart = [(batch, *_both(batch)) for batch in told]
    wrong = [item for item in apart if abs(item[1] - item[2]) > _AGREE * _prompt_tokens(item[0])]
    if wrong:
        batch, usage, counter = max(wrong, key=lambda item: abs(item[1] - item[2]))
        detail = f"usage says {usage:,} cached tokens in {batch.cell.id}, the serve's counter rose by {counter:,.0f}"
        return failed(name, f"{detail}; does somebody else use the serve?", [item[0] for item in wrong])
    most = max(abs(usage - counter) for _, usage, counter in apart)
    return ok(name, f"usage and the serve's counters agree within {most:,.0f} tokens in {len(told)} batches")


def no_accidental_hits(evidence: Evidence) -> CheckResult:
    """No request hit more than it can share with what this run sent before it: the salts work."""
    bounds = [(batch, row, ideal_of(row, most=True)) for batch, row in evidence.answered()]
    warm = [(b, row, most) for b, row, most in bounds if most is not None and (row.result.cached_tokens or 0) > most]
    if warm:
        batches = [batch for batch, _, _ in warm]
        _, row, most = max(warm, key=lambda item: (item[1].result.cached_tokens or 0) - item[2])
        return failed(
            "no_accidental_hits",
            f"{len(warm)} requests hit more than they can share, worst {row.result.cached_tokens:,} tokens where {most:,} "
            f"are possible (turn {row.turn} in {names(batches)}): warm by accident, or the block size is another one",
            batches,
        )
    return ok("no_accidental_hits", "no request hit more than its own session can share")


def _both(batch: Batch) -> tuple[int, float]:
    return sum(row.result.cached_tokens or 0 for row in batch.answered), batch.row.counters[HITS]


def _prompt_tokens(batch: Batch) -> int:
    return sum(row.result.prompt_tokens or 0 for row in batch.answered)


def primed(evidence: Evidence) -> CheckResult:
    """Decoding began behind a prompt that the serve had computed before: nobody's prefill ran in between."""
    name, least = "primed", 0.9
    rows = [(batch, row) for batch, row in evidence.answered() if row.expect.get("step") == "decode"]
    if any(row.result.cached_tokens is None for _, row in rows):
        return unverified(name, "the serve does not tell cached_tokens in usage: prefill may have run beside decoding")
    cold = [
        (batch, row) for batch, row in rows if (row.result.cached_tokens or 0) < least * (row.result.prompt_tokens or 0)
    ]
    if cold or not rows:
        detail = (
            f"{len(cold)} of {len(rows)} requests decoded behind a prompt under {percent(least)} of which was cached"
        )
        return failed(name, f"{detail}; is prefix caching off, or the cache too small?", [batch for batch, _ in cold])
    return ok(name, f"{len(rows)} requests decoded behind a cached prompt")
