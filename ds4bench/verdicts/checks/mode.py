"""Did the mode that was asked for take effect?"""

from __future__ import annotations

from collections.abc import Sequence

from ds4bench.core import CheckResult, RequestResult
from ds4bench.verdicts.checks.results import failed, not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence

_LEAST_THINKING = 0.8
"""Share of a mode's replies that must carry reasoning. A switch that is ignored leaves none, and one that every second
replica ignores about half; a model that answers now and then without a thought leaves nearly all."""
_MOST_STRAY = 0.1
"""Share of the replies without thinking that may carry reasoning all the same, in a gate that does not compare modes: a model
that samples opens a thought unasked now and then, and a switch that is ignored opens one in nearly all replies."""


def mode_effective(evidence: Evidence) -> CheckResult:
    """In every mode that switches thinking on nearly all replies carry reasoning, in one that switches it off few do.

    A switch in another engine's dialect is ignored in silence: only the replies show it. Modes are judged one by one, for
    a mode that thinks must not answer for one that does not.
    """
    name, modes = "mode_effective", _modes(evidence)
    if evidence.spec.request.endpoint == "completions":
        return not_applicable(name, "a completion has no chat template that could switch thinking")
    if not any(evidence.answered()):
        return unverified(name, "no request was answered")
    if not modes:
        return not_applicable(name, "the gate leaves thinking as the serve has it")
    problems: list[str] = []
    silent_or_loud: list[Batch] = []
    seen: list[str] = []
    for (mode, thinking), replies in modes.items():
        reasoning = sum(reasoned(result) for _, result in replies)
        label = f"{mode}: " if mode else ""
        if _ineffective(thinking, reasoning, len(replies), 0.0 if mode else _MOST_STRAY):
            problems.append(label + _problem(thinking, reasoning, len(replies)))
            silent_or_loud += [batch for batch, result in replies if reasoned(result) is not thinking]
        seen.append(f"{label}{reasoning} of {len(replies)} replies reasoned")
    if problems:
        return failed(name, f"{'; '.join(problems)}; is the serve's dialect another one?", silent_or_loud)
    return ok(name, ", ".join(seen))


def reasoned(result: RequestResult) -> bool:
    """Whether a reply carries reasoning, as text or counted in usage."""
    return bool(result.reasoning.strip()) or bool(result.reasoning_tokens)


def _modes(evidence: Evidence) -> dict[tuple[str, bool], Sequence[tuple[Batch, RequestResult]]]:
    """Answered requests by (mode of their cell, whether thinking was asked for); "" where the gate has no such axis."""
    modes: dict[tuple[str, bool], list[tuple[Batch, RequestResult]]] = {}
    for batch, row in evidence.answered():
        thinking = row.expect.get("thinking", evidence.spec.request.thinking)
        if thinking is not None:
            mode = str(batch.cell.params.get("mode", ""))
            modes.setdefault((mode, bool(thinking)), []).append((batch, row.result))
    return dict(modes)


def _ineffective(thinking: bool, reasoning: int, replies: int, stray: float) -> bool:
    return reasoning < _LEAST_THINKING * replies if thinking else reasoning > stray * replies


def _problem(thinking: bool, reasoning: int, replies: int) -> str:
    if thinking:
        return f"thinking was asked for, but {replies - reasoning} of {replies} replies carry no reasoning"
    return f"thinking was switched off, but {reasoning} of {replies} replies carry reasoning"
