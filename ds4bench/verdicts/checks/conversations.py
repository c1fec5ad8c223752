"""Were the conversations with tools held as they were meant to be?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from ds4bench.core import CheckResult, RequestRow
from ds4bench.verdicts.checks.results import failed, names, not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence

_TAGS = ("<think>", "</think>")


def reasoning_parsed(evidence: Evidence) -> CheckResult:
    """No reply has a thinking tag in its content: the serve told reasoning and content apart."""
    name = "reasoning_parsed"
    answered = list(evidence.answered())
    tagged = [batch for batch, row in answered if any(tag in row.result.content for tag in _TAGS)]
    if not tagged:
        return ok(name, "no thinking tag in any content")
    if evidence.random_weights:
        return not_applicable(name, f"random weights write any token, thinking tags in {len(tagged)} replies too")
    detail = f"{len(tagged)} of {len(answered)} replies have a thinking tag inside the content, in {names(tagged)}"
    return failed(name, f"{detail}; start the serve with its reasoning parser", tagged)


def effort_effective(evidence: Evidence) -> CheckResult:
    """The serve tells the efforts apart: the same question has first prompts of different lengths.

    DeepSeek-V4's template writes the effort into the prompt. Equal lengths do not prove that it is ignored, but then nobody
    knows what the second mode measured.
    """
    name = "effort_effective"
    lengths: dict[str, dict[str, int]] = {}
    for _, row in evidence.answered():
        effort, scenario, tokens = row.expect.get("effort"), row.expect.get("scenario"), row.result.prompt_tokens
        if effort and scenario and tokens is not None and row.turn == 0:
            lengths.setdefault(str(scenario), {})[str(effort)] = tokens
    both = {scenario: found for scenario, found in lengths.items() if len(found) > 1}
    if not both:
        return not_applicable(name, "no question was asked in two efforts with its prompt counted")
    same = [scenario for scenario, found in both.items() if len(set(found.values())) < len(found)]
    if same:
        return unverified(
            name,
            f"the prompt of {same[0]} is as long in every effort ({len(same)} of {len(both)} questions); "
            "reasoning_effort may be ignored: measure only one of these modes with --set matrix.mode=[...]",
        )
    scenario, found = next(iter(both.items()))
    return ok(name, f"{scenario}: prompt of {', '.join(f'{n} tokens at {effort}' for effort, n in found.items())}")


def replies_not_cut(evidence: Evidence) -> CheckResult:
    """Hardly any conversation had a reply cut at ``max_tokens``: its points would be about the limit, not the model.

    ``validity.max_cut_share`` may be; of the published traces of ToolCall-15 none was.
    """
    name, most = "replies_not_cut", evidence.spec.request.max_tokens
    held = list(_conversations(evidence))
    cut = [batch for batch, rows in held if any(row.result.finish_reason == "length" for row in rows)]
    detail = f"{len(cut)} of {len(held)} conversations have a reply cut at max_tokens {most:,}"
    if len(cut) <= evidence.spec.validity.max_cut_share * len(held):
        return ok(name, detail)
    if evidence.random_weights:
        return not_applicable(name, f"{detail} (random weights end where they like)")
    return failed(name, f"{detail}; raise request.max_tokens, or see why the replies do not end", cut)


def tools_called(evidence: Evidence) -> CheckResult:
    """Prompts that ask for a tool's call got some: without any, how calls are parsed was not measured."""
    name = "tools_called"
    asked = [(batch, row) for batch, row in evidence.answered() if row.expect.get("tools")]
    if not asked:
        return not_applicable(name, "no prompt asks for a tool")
    called = sum(bool(row.result.tool_calls) for _, row in asked)
    detail = f"{called} of {len(asked)} replies to prompts that ask for a tool call one"
    if called:
        return ok(name, detail)
    if evidence.random_weights:
        return not_applicable(name, f"{detail} (random weights call none): only the parsing of text was measured")
    return failed(name, f"{detail}; start the serve with its tool-call parser", [batch for batch, _ in asked])


def _conversations(evidence: Evidence) -> Iterator[tuple[Batch, list[RequestRow]]]:
    """The answered requests of every script, in order."""
    for batch in evidence.batches:
        for _, rows in groupby(batch.answered, key=lambda row: row.script):
            yield batch, list(rows)
