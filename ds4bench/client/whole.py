"""A reply that was not streamed, as the same record that a streamed one becomes."""

from __future__ import annotations

from typing import Any

import msgspec

from ds4bench.client.chunks import Message, ToolCall, WholeReply, cut_short, decode_whole
from ds4bench.client.transport import Exchange
from ds4bench.core import RequestResult

_DETAIL_LENGTH = 300


def build_whole_result(
    exchange: Exchange, *, start_s: float, lateness_ms: float, error: str | None = None, detail: str | None = None
) -> RequestResult:
    """The result of one exchange whose body had no ``stream: true``. Times of tokens are not measurable: None.

    ``error`` and ``detail`` say how the transfer itself failed, if it did. ``start_s`` is t0 relative to the barrier;
    ``e2e_s`` ends with the last byte. Error words are those of ``core.RequestResult``.
    """
    base: dict[str, Any] = {"start_s": start_s, "lateness_ms": lateness_ms, "http_status": exchange.status}
    base |= {"connect_ms": exchange.connect_ms, "reads": len(exchange.marks)}
    if exchange.status is not None and exchange.status != 200:
        words = _one_line(exchange.body.decode(errors="replace"))
        return RequestResult(ok=False, error=f"http_{exchange.status}", error_detail=words, **base)
    if error is not None or exchange.t0 is None:
        return RequestResult(ok=False, error=error or "connect", error_detail=detail, **base)
    if exchange.marks:
        base |= {
            "first_byte_s": exchange.marks[0][0] - exchange.t0,
            "e2e_s": exchange.marks[-1][0] - exchange.t0,
        }
    try:
        reply = decode_whole(exchange.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        words = _one_line(f"{problem}: {exchange.body[:120].decode(errors='replace')}")
        return RequestResult(ok=False, error="bad_json", error_detail=words, **base)
    return _read(reply, base)


def _read(reply: WholeReply, base: dict[str, Any]) -> RequestResult:
    error, detail = _failure(reply)
    choice = reply.choices[0] if reply.choices else None
    message = (choice.message if choice is not None else None) or Message(content=choice.text if choice else None)
    usage = reply.usage
    return RequestResult(
        ok=error is None,
        error=error,
        error_detail=detail,
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=usage.cached if usage else None,
        reasoning_tokens=usage.reasoned if usage else None,
        finish_reason=choice.finish_reason if choice is not None else None,
        model=reply.model,
        content=message.content or "",
        reasoning=message.reasoning or message.reasoning_content or "",
        tool_calls=[_call(call) for call in message.tool_calls or []],
        logprobs=[choice.logprobs] if choice is not None and choice.logprobs is not None else [],
        **base,
    )


def _call(call: ToolCall) -> dict[str, Any]:
    function = call.function
    return {
        "id": call.id,
        "name": (function.name if function else None) or "",
        "arguments": (function.arguments if function else None) or "",
    }


def _failure(reply: WholeReply) -> tuple[str | None, str | None]:
    """Why a reply does not count, as for a stream."""
    if reply.error is not None:
        return "stream_error", _one_line(str(reply.error))
    if not reply.choices:
        return "no_tokens", "the reply has no choice"
    if cut := cut_short(reply.choices[0].finish_reason):
        return cut
    if reply.usage is None or reply.usage.completion_tokens is None:
        return "no_usage", "the serve sent no usage"
    if reply.usage.completion_tokens == 0:
        return "no_tokens", "the reply has no token"
    return None, None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_DETAIL_LENGTH]
