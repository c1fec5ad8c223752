"""What a trace is worth: the checks of the scenario files, read by one of the two rule sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from ds4bench.errors import WorkloadError
from ds4bench.workloads.toolcall15.checks import CallsCheck, Condition, FirstCheck, Outcome
from ds4bench.workloads.toolcall15.matching import Match, describe, matches
from ds4bench.workloads.toolcall15.scenario import LANGUAGES, VARIANTS, Battery, Variant
from ds4bench.workloads.toolcall15.trace import CallRecord, Trace

Label = Literal["pass", "partial", "fail", "error"]
_LABELS: dict[int, Label] = {2: "pass", 1: "partial", 0: "fail"}
_MARKUP = ("｜DSML｜", "<｜tool▁calls", "<tool_call>")
_SHOWN = 60


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """Points of one conversation under one rule set. ``missed`` says what stood between it and full points."""

    scenario: str
    category: str
    mode: str
    round: int
    rules: str
    points: int
    label: Label
    reason: str
    missed: list[str] = []
    notes: list[str] = []
    diagnoses: list[str] = []  # truncated, exhausted, malformed_arguments, schema_mistakes, markup_leak
    fingerprint: str = ""


@dataclass(frozen=True)
class Evidence:
    """What the conditions may look at. ``calls`` are (turn from 1, call) in order."""

    calls: list[tuple[int, CallRecord]]
    answer: str
    transcript: str

    def to(self, tool: str) -> list[tuple[int, CallRecord]]:
        """The calls to one tool."""
        return [(turn, call) for turn, call in self.calls if call.name == tool]

    def turn_of(self, tool: str) -> int | None:
        """The turn of the first call to a tool."""
        return next((turn for turn, _ in self.to(tool)), None)


def variant_of(name: str) -> Variant:
    """A rule set or protocol by its name. Raises WorkloadError with the known ones."""
    for variant in VARIANTS:
        if variant == name:
            return variant
    raise WorkloadError(f"no tool-call rule set {name!r}; known: {', '.join(VARIANTS)}")


def score(trace: Trace, battery: Battery, rules: str) -> Score:
    """Points 0, 1 or 2 with reasons. A conversation that ended in an error has none.

    Raises WorkloadError for an unknown rule set or scenario.
    """
    chosen = variant_of(rules)
    file = battery.file(trace.scenario)
    evidence = evidence_of(trace, battery.shared.rule_sets[chosen].exhausted)
    if trace.status == "error":
        points, missed = 0, []
        label: Label = "error"
        reason = f"the conversation ended in an error: {trace.error or 'unknown'}"
    else:
        outcomes = file.outcomes(chosen)
        outcome = next(outcome for outcome in outcomes if all(holds(c, evidence) for c in outcome.all))
        points, label, reason = outcome.points, _LABELS[outcome.points], outcome.reason
        missed = [] if points == 2 else _missed(outcomes, evidence)
    return Score(
        scenario=trace.scenario,
        category=file.category,
        mode=trace.mode,
        round=trace.round,
        rules=chosen,
        points=points,
        label=label,
        reason=reason,
        missed=missed,
        notes=[*(note.text for note in file.notes if holds(note.when, evidence)), *_strangers(trace, battery)],
        diagnoses=_diagnoses(trace),
        fingerprint=trace.fingerprint,
    )


def evidence_of(trace: Trace, exhausted: Literal["last_text", "empty"]) -> Evidence:
    """What a rule set sees. ``exhausted``: the answer of a conversation that ran out of turns."""
    texts = [turn.content for turn in trace.turns]
    answer = texts[-1] if texts and (trace.status == "answered" or exhausted == "last_text") else ""
    calls = [(number, call) for number, turn in enumerate(trace.turns, 1) for call in turn.calls]
    return Evidence(calls, answer, "\n".join(texts))


def holds(condition: Condition, evidence: Evidence) -> bool:
    """Whether a condition holds."""
    return _failure(condition, evidence) is None


def _missed(outcomes: list[Outcome], evidence: Evidence) -> list[str]:
    """Why the outcomes of full points do not hold."""
    conditions = [condition for outcome in outcomes if outcome.points == 2 for condition in outcome.all]
    return list(dict.fromkeys(text for c in conditions if (text := _failure(c, evidence)) is not None))


def _failure(condition: Condition, evidence: Evidence) -> str | None:
    """Why a condition does not hold, in words; None if it does."""
    (key,) = condition.model_fields_set
    read: Callable[[Any, Evidence], str | None] = _READERS[key]
    return read(getattr(condition, key), evidence)


def _calls(check: CallsCheck, evidence: Evidence) -> str | None:
    calls = [call for _, call in (evidence.calls if check.tool is None else evidence.to(check.tool))]
    count = sum(_fits(call, check.arguments) is None for call in calls)
    if check.at_least <= count and (check.max is None or count <= check.max):
        return None
    what = f"{count} call{'s' if count != 1 else ''} to {check.tool or 'any tool'}{_with(check.arguments)}"
    if check.max is not None and count > check.max:
        return f"{what}, at most {check.max} wanted"
    near = next((problem for call in calls if (problem := _fits(call, check.arguments))), None)
    return f"{what}, at least {check.at_least} wanted" + (f" ({near})" if near else "")


def _first(check: FirstCheck, evidence: Evidence) -> str | None:
    calls = evidence.to(check.tool)
    if not calls:
        return f"no call to {check.tool}"
    problem = _fits(calls[0][1], check.arguments)
    return f"first call to {check.tool}: {problem}" if problem else None


def _only(tools: list[str], evidence: Evidence) -> str | None:
    others = sorted({call.name for _, call in evidence.calls} - set(tools))
    if not evidence.calls:
        return f"no call to {' or '.join(tools)}"
    return f"calls to {', '.join(others)} beside {' and '.join(tools)}" if others else None


def _order(tools: list[str], evidence: Evidence) -> str | None:
    before, after = (evidence.turn_of(tool) for tool in tools)
    if before is None or after is None:
        return f"no call to {tools[0] if before is None else tools[1]}"
    if before < after:
        return None
    return f"{tools[1]} came in turn {after}, {tools[0]} only in turn {before}"


def _same_turn(tools: list[str], evidence: Evidence) -> str | None:
    turns = [{turn for turn, _ in evidence.to(tool)} for tool in tools]
    return None if set.intersection(*turns) else f"no turn calls {' and '.join(tools)} together"


def _answer(match: Match, evidence: Evidence) -> str | None:
    return None if matches(match, evidence.answer) else f"wanted an answer that {describe(match)}"


def _transcript(match: Match, evidence: Evidence) -> str | None:
    return None if matches(match, evidence.transcript) else f"wanted a turn whose text {describe(match)}"


def _some(check: Any, evidence: Evidence) -> str | None:
    failures = [text for condition in check.of if (text := _failure(condition, evidence)) is not None]
    held = len(check.of) - len(failures)
    if held >= check.min:
        return None
    return f"{held} of {len(check.of)} hold, {check.min} wanted: {'; '.join(failures)}"


_READERS: dict[str, Callable[[Any, Evidence], str | None]] = {
    "calls": _calls,
    "first": _first,
    "only": _only,
    "order": _order,
    "same_turn": _same_turn,
    "answer": _answer,
    "transcript": _transcript,
    "some": _some,
}


def _fits(call: CallRecord, wanted: dict[str, Match]) -> str | None:
    """What is wrong with a call's arguments; None if all fit."""
    for name, match in wanted.items():
        value = call.arguments.get(name)
        if not matches(match, value):
            return f"{name} {describe(match)}: it is {_shown(value)}"
    return None


def _with(wanted: dict[str, Match]) -> str:
    return f" whose {', '.join(f'{name} {describe(match)}' for name, match in wanted.items())}" if wanted else ""


def _shown(value: Any) -> str:
    text = "left out" if value is None else repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _strangers(trace: Trace, battery: Battery) -> list[str]:
    """Says so when the trace was made with other texts or mocks than the files hold now."""
    protocol = variant_of(trace.protocol)
    now = [battery.digest(trace.scenario, protocol, name) for name in LANGUAGES if name == trace.language]
    return [] if now == [trace.digest] else ["made with another version of this scenario"]


def _diagnoses(trace: Trace) -> list[str]:
    """What went wrong apart from skill."""
    found = {
        "truncated": any(turn.finish_reason == "length" for turn in trace.turns),
        "exhausted": trace.status == "exhausted",
        "malformed_arguments": any(call.malformed for call in trace.calls),
        "schema_mistakes": any(call.mistakes and not call.malformed for call in trace.calls),
        "markup_leak": any(mark in turn.content + (turn.reasoning or "") for turn in trace.turns for mark in _MARKUP),
    }
    return [name for name, so in found.items() if so]
