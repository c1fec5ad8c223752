"""Do conversations and arrivals happen as the gate says?"""

from __future__ import annotations

from itertools import pairwise

from ds4bench.core import CheckResult, RequestRow
from ds4bench.verdicts.checks.results import failed, names, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence


def conversations_grow(evidence: Evidence) -> CheckResult:
    """Every turn of a conversation has a longer prompt than the one before: no history was cut."""
    name = "conversations_grow"
    talks: dict[tuple[int, int, int], list[RequestRow]] = {}
    home: dict[tuple[int, int, int], Batch] = {}
    for place, batch in enumerate(evidence.batches):
        for row in batch.answered:
            key = (place, row.script, int(row.expect.get("conversation", 0)))
            talks.setdefault(key, []).append(row)
            home[key] = batch
    if any(row.result.prompt_tokens is None for rows in talks.values() for row in rows):
        return unverified(name, "the serve does not tell prompt_tokens in usage")
    shrunk = [
        home[key]
        for key, rows in talks.items()
        if any((b.result.prompt_tokens or 0) <= (a.result.prompt_tokens or 0) for a, b in pairwise(rows))
    ]
    if shrunk:
        return failed(name, f"{len(shrunk)} conversations did not grow with every turn in {names(shrunk)}", shrunk)
    longest = max((row.result.prompt_tokens or 0 for rows in talks.values() for row in rows), default=0)
    return ok(name, f"{len(talks)} conversations grew to {longest:,} prompt tokens at most")


def arrivals_overlap(evidence: Evidence) -> CheckResult:
    """The second request of each batch came while the first was doing what the cell says: prefill, or decode."""
    name, apart, count = "arrivals_overlap", [], 0
    for batch in evidence.batches:
        roles = {str(row.expect.get("role")): row for row in batch.answered}
        first, second = roles.get("first"), roles.get("second")
        if first is None or second is None:
            continue  # a failed request, which all_requests_ok has found
        count += 1
        if not _in_time(first, second, decoding=batch.cell.params.get("arrival") == "prefill_behind_decode"):
            apart.append(batch)
    if apart:
        detail = f"in {len(apart)} batches the second request came too early or too late ({names(apart)})"
        return failed(name, f"{detail}; change options.delay_s, decode_tokens or matrix.prompt_tokens", apart)
    return ok(name, f"the second request came in the middle of the first in {count} batches")


def _in_time(first: RequestRow, second: RequestRow, *, decoding: bool) -> bool:
    a, came = first.result, second.result.start_s
    if a.ttft_s is None or a.e2e_s is None:
        return False
    token, end = a.start_s + a.ttft_s, a.start_s + a.e2e_s
    return token <= came < end if decoding else a.start_s <= came < token
