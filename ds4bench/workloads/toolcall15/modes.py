"""Thinking modes: how they are asked for, and what shows that they took effect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ds4bench.core import CheckResult, CheckStatus
from ds4bench.errors import WorkloadError
from ds4bench.workloads.toolcall15.trace import Trace

THINKING_SHARE = 0.9
"""Share of a thinking mode's conversations that must show reasoning. A dialect that the serve ignores leaves none (or, with
thinking as the serve's default, gives some to the non-thinking mode); one model reply without a thought is no such thing."""

_TAGS = ("<think>", "</think>")


@dataclass(frozen=True)
class Mode:
    """A thinking mode. ``effort`` only goes with thinking."""

    name: str
    thinking: bool
    effort: Literal["high", "max"] | None = None

    def body(self, dialect: str | None) -> dict[str, Any]:
        """The request fields that ask for the mode.

        ``dialect`` is ``targets.dialect.Dialect.thinking``: ``chat_template_kwargs`` (vLLM, SGLang: engines differ in
        where they read the effort, so it stands in both places), ``body`` (the hosted API), or None for a serve that
        has no known switch and gets nothing; ``mode_effective`` then tells what it did.
        """
        effort = {"reasoning_effort": self.effort} if self.effort is not None else {}
        if dialect == "chat_template_kwargs":
            return {**effort, "chat_template_kwargs": {"thinking": self.thinking, **effort}}
        if dialect == "body":
            return {**effort, "thinking": {"type": "enabled" if self.thinking else "disabled"}}
        return {}


MODES = {
    mode.name: mode
    for mode in (Mode("non-thinking", False), Mode("think-high", True, "high"), Mode("think-max", True, "max"))
}


def mode_of(name: str) -> Mode:
    """The mode of that name. Raises WorkloadError with the known ones."""
    if name not in MODES:
        raise WorkloadError(f"no thinking mode {name!r}; known: {', '.join(MODES)}")
    return MODES[name]


def mode_effective(traces: Iterable[Trace]) -> CheckResult:
    """Whether thinking modes thought and the non-thinking mode did not: the check ``mode_effective``.

    Judged by what came back, never by what was sent. Conversations without a single reply say nothing.
    """
    groups: dict[str, list[Trace]] = {}
    for trace in traces:
        if trace.turns:
            groups.setdefault(trace.mode, []).append(trace)
    if not groups:
        return _check("mode_effective", CheckStatus.UNVERIFIED, "no conversation has a reply", [])
    problems = {name: text for name, group in groups.items() if (text := _problem(mode_of(name), group))}
    if problems:
        return _check("mode_effective", CheckStatus.FAILED, "; ".join(problems.values()), list(problems))
    seen = ", ".join(f"{name}: {_thinking(group)} of {len(group)}" for name, group in groups.items())
    return _check("mode_effective", CheckStatus.OK, f"conversations with reasoning: {seen}", [])


def effort_effective(traces: Iterable[Trace]) -> CheckResult:
    """Whether the serve told the efforts apart: the same question then has first prompts of different lengths.

    DeepSeek-V4's template writes the effort into the prompt. Equal lengths prove nothing (two preambles can be equally
    long, another template may not write any), so the check never fails: it is ``unverified`` then.
    """
    first = [trace for trace in traces if trace.turns and trace.turns[0].prompt_tokens is not None]
    high = {trace.scenario: trace.turns[0].prompt_tokens for trace in first if trace.mode == "think-high"}
    top = {trace.scenario: trace.turns[0].prompt_tokens for trace in first if trace.mode == "think-max"}
    both = sorted(high.keys() & top.keys())
    if not both:
        status, text = CheckStatus.NOT_APPLICABLE, "no scenario was held in both efforts with its prompt counted"
    elif all(high[name] != top[name] for name in both):
        status, text = CheckStatus.OK, f"{both[0]}: prompt of {high[both[0]]} tokens at high, {top[both[0]]} at max"
    else:
        status, text = CheckStatus.UNVERIFIED, "prompts are as long at high as at max; reasoning_effort may be ignored"
    return _check("effort_effective", status, text, [])


def _problem(mode: Mode, group: Sequence[Trace]) -> str | None:
    tagged = sum(any(tag in turn.content for turn in trace.turns for tag in _TAGS) for trace in group)
    thinking = _thinking(group)
    if tagged and (mode.thinking and thinking < THINKING_SHARE * len(group)):
        return (
            f"{mode.name}: {tagged} of {len(group)} conversations have reasoning inside the content; start the serve \
with its reasoning parser"
        )
    if mode.thinking and thinking < THINKING_SHARE * len(group):
        return (
            f"{mode.name}: only {thinking} of {len(group)} conversations have reasoning; the serve ignores how it is \
asked to think, or does not report it"
        )
    if not mode.thinking and (thinking or tagged):
        return f"{mode.name}: {max(thinking, tagged)} of {len(group)} conversations have reasoning; the serve ignores \
that thinking is switched off"
    return None


def _thinking(group: Iterable[Trace]) -> int:
    """Conversations with reasoning in at least one reply."""
    return sum(any((turn.reasoning or "").strip() or turn.reasoning_tokens for turn in trace.turns) for trace in group)


def _check(name: str, status: CheckStatus, detail: str, cells: list[str]) -> CheckResult:
    return CheckResult(name=name, status=status, detail=detail, cells=cells)
