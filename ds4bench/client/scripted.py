"""A load server that streams tokens on an absolute schedule and logs what it really sent: the truth for ``accuracy``.

``python -m ds4bench.client.scripted`` prints its port. Token k of a stream is due at receipt + TTFT + k * gap, so that one
late token does not delay the next. ``GET /log`` returns, per request, the instants that were kept, in ``perf_counter``
seconds, which all processes of a Linux machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from typing import Any

import msgspec

_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


class Plan(msgspec.Struct, frozen=True):
    """What to stream: seconds, and the number of tokens."""

    ttft_s: float
    gap_s: float
    tokens: int


class Sent(msgspec.Struct):
    """One request as the server saw it."""

    id: int
    received: float
    sent: list[float] = []


class _Body(msgspec.Struct):
    id: int = 0


def _framed(data: bytes) -> bytes:
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


class _Frames:
    """Every byte that will be sent, made before the clock starts."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.role = _framed(_chunk({"role": "assistant", "content": ""}))
        self.token = _framed(_chunk({"content": " token"}))
        usage = {"prompt_tokens": 8, "completion_tokens": plan.tokens, "total_tokens": 8 + plan.tokens}
        last = msgspec.json.encode({"model": "scripted", "choices": [], "usage": usage})
        self.end = _framed(_chunk({}, "length")) + _framed(last) + _framed(b"[DONE]") + b"0\r\n\r\n"


def _chunk(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 1, "model": "scripted"}
    return msgspec.json.encode({**head, "choices": [choice]})


class _Connection(asyncio.Protocol):
    """One keep-alive connection; requests come one after another."""

    def __init__(self, frames: _Frames, log: list[Sent]) -> None:
        self._frames = frames
        self._log = log
        self._buffer = b""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop sending."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Stamp; parse only after every other request that arrived now is stamped too."""
        now = time.perf_counter()
        self._buffer += data
        self._loop.call_soon(self._parse, now)

    def _parse(self, now: float) -> None:
        head, separator, rest = self._buffer.partition(b"\r\n\r\n")
        if not separator or self._transport is None:
            return
        lines = head.lower().split(b"\r\n")
        lengths = [int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")]
        length = lengths[0] if lengths else 0
        if len(rest) < length:
            return
        body, self._buffer = rest[:length], rest[length:]
        if head.startswith(b"POST"):
            self._begin(now, body)
        else:
            answer = msgspec.json.encode(self._log) if head.startswith(b"GET /log") else b"{}"
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(answer), answer))

    def _begin(self, now: float, body: bytes) -> None:
        record = Sent(id=msgspec.json.decode(body, type=_Body).id, received=now)
        self._log.append(record)
        assert self._transport is not None
        self._transport.write(_HEAD + self._frames.role)
        # perf_counter and the loop's clock are the same clock on Linux, not elsewhere: keep only the difference.
        origin = self._loop.time() + (now - time.perf_counter())
        self._loop.call_at(origin + self._frames.plan.ttft_s, self._token, record, origin, 0)

    def _token(self, record: Sent, origin: float, number: int) -> None:
        plan = self._frames.plan
        if self._transport is None:
            return
        record.sent.append(time.perf_counter())
        self._transport.write(self._frames.token)
        if number + 1 < plan.tokens:
            due = origin + plan.ttft_s + (number + 1) * plan.gap_s
            self._loop.call_at(due, self._token, record, origin, number + 1)
        else:
            self._transport.write(self._frames.end)


async def serve(plan: Plan) -> None:
    """Serve on a free loopback port, printed on the first line of stdout, until stdin closes."""
    frames, log = _Frames(plan), list[Sent]()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(frames, log), "127.0.0.1", 0, backlog=2048)
    gc.freeze()
    gc.disable()
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    async with server:
        await asyncio.to_thread(sys.stdin.read)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttft-ms", type=float, default=200.0)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=128)
    options: Any = parser.parse_args(arguments)
    plan = Plan(options.ttft_ms / 1000, options.gap_ms / 1000, options.tokens)
    asyncio.run(serve(plan))


if __name__ == "__main__":
    main()
