"""Are prompts and replies as long as the cell says?"""

from __future__ import annotations

from ds4bench.core import CheckResult, RequestRow
from ds4bench.verdicts.checks.results import failed, not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence
from ds4bench.verdicts.wording import percent


def no_truncation(evidence: Evidence) -> CheckResult:
    """No prompt was cut: the serve counted as many prompt tokens as were sent, less the tolerance."""
    tolerance = evidence.spec.validity.length_tolerance
    cut = [
        (batch, got, expected)
        for batch, got, expected in _prompt_lengths(evidence)
        if got is not None and got < expected * (1 - tolerance)
    ]
    if cut:
        batch, got, expected = min(cut, key=lambda item: item[1] / item[2])
        return failed(
            "no_truncation",
            f"{len(cut)} prompts were truncated, worst {got:,} of {expected:,} tokens in {batch.cell.id}; "
            "raise the serve's maximum length or lower matrix.prompt_tokens",
            [item[0] for item in cut],
        )
    return ok("no_truncation", "no prompt was cut")


def length_within(evidence: Evidence) -> CheckResult:
    """Prompts have the length that their cell names, by the serve's own count."""
    tolerance = evidence.spec.validity.length_tolerance
    lengths = _prompt_lengths(evidence)
    if any(got is None for _, got, _ in lengths):
        return unverified("length_within", "the serve does not tell prompt_tokens in usage")
    off = [(abs((got or 0) / expected - 1), b, got, expected) for b, got, expected in lengths]
    outside = [item for item in off if item[0] > tolerance]
    if outside:
        _, batch, got, expected = max(outside, key=lambda item: item[0])
        return failed(
            "length_within",
            f"{len(outside)} prompts miss their length by more than {percent(tolerance, 1)}, worst {got:,} "
            f"instead of {expected:,} tokens in {batch.cell.id}",
            [item[1] for item in outside],
        )
    most = max((item[0] for item in off), default=0.0)
    return ok("length_within", f"within {percent(most, 2)} of the cell's length")


def full_length_replies(evidence: Evidence) -> CheckResult:
    """With ``ignore_eos`` every reply has as many tokens as were asked for: the serve does know that field."""
    name, request = "full_length_replies", evidence.spec.request
    if not request.ignore_eos:
        return not_applicable(name, "replies may end by themselves")
    made = [(batch, row.result.completion_tokens) for batch, row in evidence.answered()]
    short = [(batch, tokens) for batch, tokens in made if tokens is not None and tokens != request.max_tokens]
    if short:
        batch, tokens = min(short, key=lambda item: item[1])
        return failed(
            name,
            f"{len(short)} replies do not have {request.max_tokens:,} tokens, one in {batch.cell.id} has {tokens:,}: the "
            "serve does not obey ignore_eos",
            [item[0] for item in short],
        )
    return ok(name, f"every reply has {request.max_tokens:,} tokens")


def _prompt_lengths(evidence: Evidence) -> list[tuple[Batch, int | None, int]]:
    """(batch, prompt tokens by the serve, prompt tokens meant) of every answered request."""
    return [(batch, row.result.prompt_tokens, _meant(batch, row)) for batch, row in evidence.answered()]


def _meant(batch: Batch, row: RequestRow) -> int:
    """Prompt tokens that the workload built, else those of the cell."""
    return int(row.expect.get("prompt_tokens") or batch.cell.params["prompt_tokens"])
