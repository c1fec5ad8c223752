"""Does every token of a reply come with its likeliest rivals?"""

from __future__ import annotations

from ds4bench.core import CheckResult, ScriptRow
from ds4bench.verdicts.checks.results import failed, ok
from ds4bench.verdicts.evidence import Evidence


def logprobs_complete(evidence: Evidence) -> CheckResult:
    """Every reply has the logprobs of all its tokens, several at each place: else there is nothing to compare."""
    name, short, total = "logprobs_complete", [], 0
    for batch in evidence.batches:
        scripts = {script.script: script for script in batch.scripts}
        for row in batch.answered:
            total += 1
            told = _places(scripts.get(row.script), row.turn)
            if told == 0 or told < (row.result.completion_tokens or 0) - 1:  # vLLM sends none for the end token
                short.append(batch)
    if short:
        detail = f"{len(short)} of {total} replies lack the logprobs of their tokens; does the serve allow that many?"
        return failed(name, detail, short)
    return ok(name, f"{total} replies with the likeliest tokens of every place")


def _places(script: ScriptRow | None, turn: int) -> int:
    replies = script.answer.detail.get("replies", []) if script is not None and script.answer is not None else []
    return sum(len(rivals) > 1 for rivals in replies[turn]["top"]) if turn < len(replies) else 0
