"""From the bytes of a stream and their arrival times to a ``RequestResult``: the metric definitions of ds4bench.

* **t0** is the instant before the request is handed to a connection that is already open.
* A **token chunk** carries generated tokens: content, reasoning (either name), tool-call text, or completions text. A chunk
  with empty text counts only if the running token count of ``continuous_usage_stats`` rose with it (a special token, half a
  UTF-8 character). Role-only chunks, comments and usage-only chunks do not count; they set ``first_byte_s`` at most.
* **TTFT** = first token chunk - t0. **TTFA** = first content or tool-call chunk - t0.
* **TPOT** = (last token chunk - first token chunk) / (completion tokens - 1).
* **TPOT_decode** = the same time / (completion tokens - tokens of the first chunk): free of the bias that a first chunk of
  several tokens brings under speculative decoding. Only with ``continuous_usage_stats``; without it gates judge TPOT
  (``measures.judged_metric``).
* **E2E** ends at the last token chunk; what follows until the stream closes is ``stream_close_ms``.
* A reply that the serve cut short (``finish_reason`` ``abort``, ``error``, ...: ``chunks.CUT_SHORT``) is a failed request.
* Token counts are the serve's own usage. Without usage a request is unmeasurable (error ``no_usage``), never estimated.

Versioned by ``core.METRIC_SCHEMA``.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ds4bench.client.chunks import Choice, Chunk, ToolCall, Usage, cut_short, decode_chunk
from ds4bench.client.sse import split_events
from ds4bench.client.transport import Exchange
from ds4bench.core import RequestResult

_DONE = b"[DONE]"
_LAST_LINES = (b"", b"data: [DONE]", b"data:[DONE]")  # the end marker is understood without its blank line
_DETAIL_LENGTH = 300


@dataclass
class _Stream:
    """What the chunks of a stream add up to."""

    token_times: list[float] = field(default_factory=list)
    ttfa: float | None = None
    usage: Usage | None = None
    first_chunk_tokens: int | None = None
    counted: int = 0
    finish_reason: str | None = None
    model: str | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    logprobs: list[Any] = field(default_factory=list)
    done: bool = False
    error: str | None = None
    error_detail: str | None = None


def build_result(
    exchange: Exchange, *, start_s: float, lateness_ms: float, error: str | None = None, detail: str | None = None
) -> RequestResult:
    """The result of one exchange. ``error`` and ``detail`` say how the transfer itself failed, if it did.

    ``start_s`` is t0 relative to the barrier. A failed request keeps what could be measured before it failed.
    """
    base: dict[str, Any] = {"start_s": start_s, "lateness_ms": lateness_ms, "http_status": exchange.status}
    base["connect_ms"] = exchange.connect_ms
    if exchange.status is not None and exchange.status != 200:
        return RequestResult(
            ok=False,
            error=f"http_{exchange.status}",
            error_detail=_one_line(exchange.body.decode(errors="replace")),
            retry_after_s=exchange.retry_after_s,
            **base,
        )
    t0 = exchange.t0
    if t0 is None:
        return RequestResult(ok=False, error=error or "connect", error_detail=detail, **base)

    split = split_events(exchange.body)
    arrival = [(end, _arrival(exchange.marks, end) - t0) for _, end in split.events]
    stream = _Stream()
    for event, (_, at) in zip(split.events, arrival, strict=True):
        _take(stream, event.data, at)
    error, detail = _failure(stream, error, detail, split.rest)
    bursts, reads = _bursts(exchange, t0, stream.token_times)
    times, usage = stream.token_times, stream.usage
    closed = exchange.marks[-1][0] - t0 if exchange.marks else None
    return RequestResult(
        ok=error is None,
        error=error,
        error_detail=detail,
        first_byte_s=exchange.marks[0][0] - t0 if exchange.marks else None,
        ttft_s=times[0] if times else None,
        ttfa_s=stream.ttfa,
        e2e_s=times[-1] if times else None,
        stream_close_ms=(closed - times[-1]) * 1000 if times and closed is not None else None,
        tpot_ms=_per_token_ms(times, usage, 1),
        tpot_decode_ms=_per_token_ms(times, usage, stream.first_chunk_tokens),
        prompt_tokens=usage.prompt_tokens if usage else None,
        completion_tokens=usage.completion_tokens if usage else None,
        cached_tokens=usage.cached if usage else None,
        reasoning_tokens=usage.reasoned if usage else None,
        first_chunk_tokens=stream.first_chunk_tokens,
        finish_reason=stream.finish_reason,
        model=stream.model,
        chunk_times_s=times,
        reads=reads,
        burst_reads=bursts,
        comments=split.comments,
        content="".join(stream.content),
        reasoning="".join(stream.reasoning),
        tool_calls=[stream.tool_calls[i] for i in sorted(stream.tool_calls)],
        logprobs=stream.logprobs,
        **base,
    )


def _arrival(marks: list[tuple[float, int]], end: int) -> float:
    """When the byte before offset ``end`` had been read."""
    index = bisect_left(marks, end, key=lambda mark: mark[1])
    return marks[min(index, len(marks) - 1)][0]


def _take(stream: _Stream, data: bytes, at: float) -> None:
    """Add one event to the stream."""
    if stream.done or stream.error is not None or not data:
        return
    if data == _DONE:
        stream.done = True
        return
    try:
        chunk = decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        stream.error, stream.error_detail = "bad_json", _one_line(f"{error}: {data[:120].decode(errors='replace')}")
        return
    if chunk.error is not None:
        stream.error, stream.error_detail = "stream_error", _one_line(str(chunk.error))
        return
    stream.model = chunk.model or stream.model
    counted_before = stream.usage is not None
    rose = _count(stream, chunk)
    choice = chunk.choice
    if choice is None:
        return
    # DeepSeek's API puts the only usage of the stream into the chunk with the finish_reason: that is no running count.
    rose = rose and (counted_before or choice.finish_reason is None)
    stream.finish_reason = choice.finish_reason or stream.finish_reason
    texts = _texts(choice)
    if any(texts) or rose:
        if not stream.token_times and rose:
            stream.first_chunk_tokens = stream.counted
        stream.token_times.append(at)
    content, reasoning, tool_text = texts
    if stream.ttfa is None and (content or tool_text):
        stream.ttfa = at
    stream.content.append(content)
    stream.reasoning.append(reasoning)
    _merge_tool_calls(stream, choice)
    if choice.logprobs is not None:
        stream.logprobs.append(choice.logprobs)


def _count(stream: _Stream, chunk: Chunk) -> bool:
    """Take the chunk's usage; whether the running number of completion tokens rose."""
    if chunk.usage is None:
        return False
    stream.usage = chunk.usage
    total = chunk.usage.completion_tokens or 0
    rose = total > stream.counted
    stream.counted = max(total, stream.counted)
    return rose


def _texts(choice: Choice) -> tuple[str, str, bool]:
    """(content, reasoning, whether there is tool-call text)."""
    delta = choice.delta
    if delta is None:
        return choice.text or "", "", False
    calls = delta.tool_calls or []
    has_call = any(call.function is not None and (call.function.name or call.function.arguments) for call in calls)
    return delta.content or "", delta.reasoning or delta.reasoning_content or "", has_call


def _merge_tool_calls(stream: _Stream, choice: Choice) -> None:
    calls: list[ToolCall] = (choice.delta.tool_calls or []) if choice.delta is not None else []
    for call in calls:
        whole = stream.tool_calls.setdefault(call.index, {"id": None, "name": "", "arguments": ""})
        whole["id"] = call.id or whole["id"]
        if call.function is not None:
            whole["name"] += call.function.name or ""
            whole["arguments"] += call.function.arguments or ""


def _failure(stream: _Stream, error: str | None, detail: str | None, rest: bytes) -> tuple[str | None, str | None]:
    """The reason why a stream does not count, the transfer's own first. A missing ``[DONE]`` alone is none."""
    if error is not None:
        return error, detail
    if stream.error is not None:
        return stream.error, stream.error_detail
    if rest.startswith(b"{"):
        return "bad_json", _one_line(f"not an event stream: {rest[:120].decode(errors='replace')}")
    if rest.strip() not in _LAST_LINES and not stream.done:
        return "disconnect", "the stream ended in the middle of an event"
    if cut := cut_short(stream.finish_reason):
        return cut
    if not stream.token_times:
        return "no_tokens", "the stream ended without a token"
    if not stream.done and stream.finish_reason is None:
        return "disconnect", "the stream ended without a finish_reason"
    if stream.usage is None or stream.usage.completion_tokens is None:
        return "no_usage", "the serve sent no usage; stream_options.include_usage was asked for"
    return None, None


def _per_token_ms(times: list[float], usage: Usage | None, first: int | None) -> float | None:
    """Milliseconds a token after the first chunk, which held ``first`` tokens."""
    if first is None or usage is None or usage.completion_tokens is None or len(times) < 2:
        return None
    rest = usage.completion_tokens - first
    return (times[-1] - times[0]) * 1000 / rest if rest > 0 else None


def _bursts(exchange: Exchange, t0: float, token_times: list[float]) -> tuple[int, int]:
    """(reads that brought more than one token chunk, reads)."""
    per_read: dict[float, int] = {}
    for at in token_times:
        per_read[at] = per_read.get(at, 0) + 1
    return sum(count > 1 for count in per_read.values()), len(exchange.marks)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_DETAIL_LENGTH]
