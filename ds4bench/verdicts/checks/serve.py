"""Did the serve live, answer everything, and answer as the model that was asked for?"""

from __future__ import annotations

from collections import Counter

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import failed, names, ok, unverified
from ds4bench.verdicts.evidence import Evidence


def server_alive(evidence: Evidence) -> CheckResult:
    """The serve did not die before the last batch was measured."""
    died = evidence.run.died
    if died and not evidence.complete:
        return failed("server_alive", f"server died ({died}): {evidence.interruption}", [])
    if before := evidence.run.deaths_before:
        times = "once" if len(before) == 1 else f"{len(before)} times"
        done = "is complete" if evidence.complete else "went on"
        return ok("server_alive", f"died {times} ({before[-1]}); the run was resumed and {done}")
    if died:
        return ok("server_alive", f"died after the last batch ({died})")
    return ok("server_alive", "answered to the end" if evidence.complete else "did not die")


def all_requests_ok(evidence: Evidence) -> CheckResult:
    """No measured request failed and none is missing."""
    bad, errors, total = [], Counter[str](), 0
    for batch in evidence.batches:
        words = [row.result.error or "failed" for row in batch.requests if not row.result.ok]
        words += ["missing"] * (batch.row.requests - len(batch.requests))
        errors.update(words)
        total += max(batch.row.requests, len(batch.requests))
        if words:
            bad.append(batch)
    if bad:
        kinds = ", ".join(f"{word} x{n}" for word, n in errors.most_common())
        example = next(
            (
                f": {row.result.error_detail}"
                for batch in bad
                for row in batch.requests
                if not row.result.ok and row.result.error_detail
            ),
            "",
        )
        detail = f"{errors.total()} of {total} requests failed ({kinds}) in {names(bad)}{example}"
        return failed("all_requests_ok", detail, bad)
    refused = sum(row.phase == "refused" for row in evidence.run.requests)
    again = f"; {refused} were refused for their rate (429) and sent again as new requests" if refused else ""
    return ok("all_requests_ok", f"{total} of {total} requests answered{again}")


def model_identity(evidence: Evidence) -> CheckResult:
    """Every reply names the model that the run is about."""
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is None:
        return unverified("model_identity", "the serve was not identified before the run")
    wrong = [b for b, row in evidence.answered() if row.result.model not in (None, fingerprint.model)]
    if wrong:
        other = {row.result.model for _, row in evidence.answered()} - {None, fingerprint.model}
        others = ", ".join(sorted(map(str, other)))
        return failed(
            "model_identity",
            f"replies came from model {others}, asked for was {fingerprint.model}, in {names(wrong)}",
            wrong,
        )
    silent = sum(row.result.model is None for _, row in evidence.answered())
    if silent:
        return unverified("model_identity", f"{silent} replies do not name the model that answered")
    return ok("model_identity", f"all replies are from {fingerprint.model}")
