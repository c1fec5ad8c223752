"""Was every item answered, and did the replies end by themselves? A cut one says something about the limit, not the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ds4bench.core import CheckResult, RequestRow
from ds4bench.verdicts.checks.results import failed, names, not_applicable, ok
from ds4bench.verdicts.evidence import Batch, Evidence

_NO_TOKENS = "no_tokens"
"""The client's word for a reply that ended in order without a token: empty, but an answer."""


def all_items_answered(evidence: Evidence) -> CheckResult:
    """Every item of every measured batch got a reply, if only an empty one, and has its scores."""
    name = "all_items_answered"
    missing: list[tuple[Batch, str]] = []
    total = 0
    for batch in evidence.batches:
        missing += [(batch, script.key) for script in batch.scripts if script.answer is None]
        total += max(batch.row.requests, len(batch.scripts))
        missing += [(batch, "one that never ended")] * (batch.row.requests - len(batch.scripts))
    if not missing:
        return ok(name, f"{total} of {total} items answered")
    errors = Counter(
        row.result.error or "failed"
        for batch in evidence.batches
        for row in batch.requests
        if not row.result.ok and row.result.error != _NO_TOKENS
    )
    kinds = ", ".join(f"{word} x{count}" for word, count in errors.most_common()) or "no reply was kept"
    keys = ", ".join(key for _, key in missing[:5]) + (", ..." if len(missing) > 5 else "")
    detail = f"{len(missing)} of {total} items were not answered ({kinds}): {keys}"
    return failed(name, detail, [batch for batch, _ in missing])


def completions_whole(evidence: Evidence) -> CheckResult:
    """Replies that are empty or were cut at ``max_tokens`` are no larger a share than ``validity.max_cut_share``."""
    name, most = "completions_whole", evidence.spec.request.max_tokens
    replies = list(_replies(evidence))
    cut = [batch for batch, row in replies if row.result.finish_reason == "length"]
    empty = [b for b, row in replies if row.result.finish_reason != "length" and not row.result.content.strip()]
    detail = f"{len(cut)} of {len(replies)} replies were cut at max_tokens {most:,}, {len(empty)} are empty"
    share = evidence.spec.validity.max_cut_share
    if len(cut) + len(empty) <= share * len(replies):
        return ok(name, detail)
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is not None and fingerprint.weights == "random":
        return not_applicable(name, f"{detail} (random weights end where they like)")
    what = "raise request.max_tokens, or see why they do not end" if cut else "see what the serve answers"
    return failed(name, f"{detail}, in {names([*cut, *empty])}; at most {share:.0%} may be: {what}", [*cut, *empty])


def _replies(evidence: Evidence) -> Iterator[tuple[Batch, RequestRow]]:
    """Every reply that ended in order, with its batch."""
    for batch in evidence.batches:
        for row in batch.requests:
            if row.result.ok or row.result.error == _NO_TOKENS:
                yield batch, row
