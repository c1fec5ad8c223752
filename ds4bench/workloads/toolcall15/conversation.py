"""The turn loop: question, reply, tool results, reply, ... until the model stops calling tools."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from ds4bench.workloads.toolcall15.arguments import parse_arguments, schema_mistakes
from ds4bench.workloads.toolcall15.mocks import tool_result
from ds4bench.workloads.toolcall15.modes import Mode
from ds4bench.workloads.toolcall15.reply import Reply, ReplyCall
from ds4bench.workloads.toolcall15.scenario import Scenario
from ds4bench.workloads.toolcall15.trace import CallRecord, Status, Trace, TurnRecord

Messages = list[dict[str, Any]]
Send = Callable[[Messages, list[dict[str, Any]], Mode], Awaitable[Reply]]
"""Sends one request with these messages, tools and mode. A request that fails comes back as a reply with ``error``; what
must end the whole run (the serve is gone) is raised."""

MAX_CALLS_PER_TURN = 32
"""More calls than this in one reply end the conversation as an error: a broken parser or a babbling model, and each call
would add its result to the next prompt. The scenarios need two."""


async def converse(scenario: Scenario, mode: Mode, send: Send, *, round_: int = 0) -> Trace:
    """Hold one conversation and give back its trace. Whatever the model says, this raises nothing of its own.

    Every call of a reply gets the mock's result, in order, also in the last turn that is allowed. Arguments that are no
    JSON object count as ``{}``, for the mock, for the rules and in the history that is sent back: engines refuse a
    history that they cannot parse. Reasoning goes back with the calls it led to as ``reasoning_content``, under whatever
    name it came, an empty text when there was none.
    """
    messages: Messages = [
        {"role": "system", "content": scenario.system},
        {"role": "user", "content": scenario.user},
    ]
    turns: list[TurnRecord] = []
    seen: Counter[str] = Counter()
    ids: set[str] = set()
    status: Status = "exhausted"
    error: str | None = None
    while len(turns) < scenario.max_turns:
        reply = await send([dict(message) for message in messages], scenario.tools, mode)
        if reply.error is not None:
            status, error = "error", reply.error
            break
        answered = reply.calls[:MAX_CALLS_PER_TURN]
        calls = [_answer(scenario, call, len(turns) + 1, i, seen, ids) for i, call in enumerate(answered)]
        turns.append(_turn(reply, calls))
        if not calls:
            status = "answered"
            break
        if len(reply.calls) > MAX_CALLS_PER_TURN:
            status, error = "error", f"too_many_calls: {len(reply.calls)} tool calls in one reply"
            break
        messages.append(_assistant_message(reply, calls))
        messages.extend(_tool_message(call) for call in calls)
    return Trace(
        scenario=scenario.id,
        digest=scenario.digest,
        protocol=scenario.protocol,
        language=scenario.language,
        mode=mode.name,
        round=round_,
        user=scenario.user,
        turns=turns,
        status=status,
        error=error,
    )


def _answer(
    scenario: Scenario, call: ReplyCall, turn: int, index: int, seen: Counter[str], ids: set[str]
) -> CallRecord:
    """Run one call through the mocks. ``seen`` counts the calls to each tool, ``ids`` keeps ids different."""
    seen[call.name] += 1
    call_id = call.id if call.id and call.id not in ids else f"call_{turn}_{index}"
    ids.add(call_id)
    arguments, malformed = parse_arguments(call.text)
    wrong = ["the arguments are no JSON object"] if malformed else []
    return CallRecord(
        id=call_id,
        name=call.name,
        text=call.text,
        arguments=arguments,
        malformed=malformed,
        result=tool_result(scenario, call.name, arguments, seen[call.name]),
        mistakes=wrong or schema_mistakes(scenario.tools, call.name, arguments),
    )


def _turn(reply: Reply, calls: list[CallRecord]) -> TurnRecord:
    return TurnRecord(
        content=reply.content,
        reasoning=reply.reasoning,
        calls=calls,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        reasoning_tokens=reply.reasoning_tokens,
        cached_tokens=reply.cached_tokens,
        e2e_s=reply.e2e_s,
    )


def _assistant_message(reply: Reply, calls: list[CallRecord]) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": reply.content,
        "reasoning_content": reply.reasoning or "",
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.text if call.arguments else "{}"},
            }
            for call in calls
        ],
    }


def _tool_message(call: CallRecord) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call.id, "content": json.dumps(call.result, ensure_ascii=False)}
