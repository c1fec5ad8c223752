"""Can the measured times and counts be true at all?"""

from __future__ import annotations

import math

from ds4bench.core import CheckResult, RequestResult
from ds4bench.verdicts.checks.results import failed, ok
from ds4bench.verdicts.evidence import Evidence


def possible_values(evidence: Evidence) -> CheckResult:
    """No time is zero, negative, not a number, or against another; no chunk without a token."""
    found = [(b, row.index, why) for b, row in evidence.answered() if (why := impossible(row.result))]
    if found:
        batch, index, why = found[0]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        detail = f"impossible value: {why} (request {index} of {batch.cell.id}{more})"
        return failed("possible_values", detail, [item[0] for item in found])
    return ok("possible_values", "all times and counts are possible")


def impossible(result: RequestResult) -> str | None:
    """What about an answered request cannot be, or None."""
    times = {
        name: getattr(result, name)
        for name in ("ttft_s", "ttfa_s", "e2e_s", "tpot_ms", "tpot_decode_ms", "first_byte_s")
    }
    for name, value in times.items():
        if value is not None and not math.isfinite(value):
            return f"{name} is {value}"
        if value is not None and value < 0:
            return f"{name} is negative ({value:g})"
    if result.ttft_s is None or result.ttft_s == 0:
        return "ttft_s is missing" if result.ttft_s is None else "ttft_s is 0"
    if result.tpot_ms == 0 or result.tpot_decode_ms == 0:
        return "time per output token is 0"
    if result.e2e_s is not None and result.ttft_s > result.e2e_s:
        return f"ttft_s {result.ttft_s:g} is after the last token at {result.e2e_s:g} s"
    tokens, chunks = result.completion_tokens, len(result.chunk_times_s)
    if tokens is not None and tokens < max(chunks, 1):
        return f"{tokens} tokens in {chunks} chunks"
    return None
