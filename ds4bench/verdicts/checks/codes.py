"""Could a reply name what it was asked to find?"""

from __future__ import annotations

from ds4bench.core import CheckResult, RequestResult
from ds4bench.verdicts.checks.mode import reasoned
from ds4bench.verdicts.checks.results import failed, names, not_applicable, ok
from ds4bench.verdicts.evidence import Batch, Evidence

_MOST = 0.5
"""Share of a cell's replies. One model reply that thinks unasked is the model's; a serve that thinks does so in all."""


def codes_not_cut(evidence: Evidence) -> CheckResult:
    """In no cell were most replies cut at ``max_tokens`` while they were still reasoning: their recall is about the limit.

    Only that is a fact. A reply with content and without the codes is wrong, not cut: what a broken model writes also goes
    on to ``max_tokens``, with ``ignore_eos`` every reply does, and its recall must say so.
    """
    name = "codes_not_cut"
    if not any(rule.kind in ("recall", "score") for rule in evidence.spec.rules):
        return not_applicable(name, "no rule judges what the replies name")
    replies: dict[str, list[tuple[Batch, RequestResult]]] = {}
    for batch, row in evidence.answered():
        replies.setdefault(batch.cell.id, []).append((batch, row.result))
    cut = {cell: [batch for batch, result in found if _cut(result)] for cell, found in replies.items()}
    lost = [batch for cell, batches in cut.items() if len(batches) > _MOST * len(replies[cell]) for batch in batches]
    everywhere = sum(map(len, cut.values()))
    detail = f"{everywhere} of {sum(map(len, replies.values()))} replies were cut at max_tokens while still reasoning"
    if not lost:
        return ok(name, detail)
    if evidence.random_weights:
        return not_applicable(name, f"{detail} (random weights know no code)")
    sentence = f"{detail}, most of those in {names(lost)}: no code could be named"
    return failed(name, f"{sentence}; is the serve's dialect another one? else raise request.max_tokens", lost)


def _cut(result: RequestResult) -> bool:
    return result.finish_reason == "length" and not result.content.strip() and reasoned(result)
