"""One reply of a model as the turn loop reads it, whoever delivered it and whatever it calls its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ds4bench.core import RequestResult


class ReplyCall(msgspec.Struct, frozen=True):
    """A tool call: its id (may be missing), name, and the text of its arguments."""

    id: str | None
    name: str
    text: str


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. With ``error`` there is no reply; ``reasoning`` is None when there was none."""

    content: str = ""
    reasoning: str | None = None
    calls: list[ReplyCall] = []
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    e2e_s: float | None = None
    error: str | None = None


def reply_of_result(result: RequestResult) -> Reply:
    """From the timed client's record. A failed request keeps its stable word and detail as ``error``."""
    if not result.ok:
        return Reply(error=": ".join(part for part in (result.error or "failed", result.error_detail) if part))
    return Reply(
        content=_clean(result.content),
        reasoning=_clean(result.reasoning) or None,
        calls=[_call(call) for call in result.tool_calls],
        finish_reason=result.finish_reason,
        prompt_tokens=result.prompt_tokens,
        completion_tokens=result.completion_tokens,
        reasoning_tokens=result.reasoning_tokens,
        cached_tokens=result.cached_tokens,
        e2e_s=result.e2e_s,
    )


def reply_of_message(
    message: Mapping[str, Any], *, finish_reason: str | None = None, usage: Mapping[str, Any] | None = None
) -> Reply:
    """From ``choices[0].message`` of a whole (not streamed) reply.

    ``reasoning`` and ``reasoning_content`` are two names of one thing: of a reply that has both, one is taken.
    """
    reasoning = _text(message.get("reasoning")) or _text(message.get("reasoning_content"))
    calls = message.get("tool_calls")
    counts = usage or {}
    return Reply(
        content=_clean(_text(message.get("content"))),
        reasoning=_clean(reasoning) or None,
        calls=[_call(call) for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else [],
        finish_reason=finish_reason,
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        reasoning_tokens=_count(_details(counts, "completion_tokens_details").get("reasoning_tokens")),
        cached_tokens=_count(_details(counts, "prompt_tokens_details").get("cached_tokens")),
    )


def _call(raw: Mapping[str, Any]) -> ReplyCall:
    """A call in OpenAI's nested form or in the flat one of ``RequestResult``."""
    nested = raw.get("function")
    function = nested if isinstance(nested, Mapping) else raw
    arguments = function.get("arguments")
    if isinstance(arguments, Mapping):  # some serves send the object itself
        arguments = msgspec.json.encode(arguments).decode()
    name = _clean(_text(function.get("name"))) or "unknown_tool"
    return ReplyCall(_clean(_text(raw.get("id"))) or None, name, _clean(_text(arguments)))


def _text(value: Any) -> str:
    """Text, or the text parts of a list of parts; anything else is none."""
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, Mapping) and part.get("type") == "text"]
        return "".join(part for part in parts if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no JSON and no serve would take back."""
    return text.encode("utf-8", "replace").decode()


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name)
    return details if isinstance(details, Mapping) else {}


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
