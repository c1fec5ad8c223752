"""A scripted serve and the proxy in front of it, both on loopback sockets of this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from ds4bench.trust.proxy import Proxy
from ds4bench.trust.proxy_faults import choose

Json = dict[str, Any]
CHAT = "/v1/chat/completions"


def event(chunk: Json) -> bytes:
    """As vLLM writes them: with spaces, escaped."""
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> Json:
    return {"model": "m", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


@dataclass
class Upstream:
    """What the scripted serve answers, and what it was asked."""

    writes: list[bytes] = field(default_factory=list)
    whole: Json = field(default_factory=dict)
    gap_s: float = 0.0
    asked: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.headers.append(dict(request.headers))
        if request.method == "GET":
            return web.Response(body=b"# metrics\n", headers={"x-serve": "yes"}, content_type="text/plain")
        body = await request.json()
        self.asked.append(body)
        if not body.get("stream"):
            return web.json_response(self.whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        try:
            for data in self.writes:
                await response.write(data)
                await asyncio.sleep(self.gap_s)
        except (ConnectionError, asyncio.CancelledError):
            self.cancelled.set()
            raise
        return response


@dataclass
class Asked:
    """A client of the proxy."""

    session: ClientSession
    url: str

    async def stream(self, **body: Any) -> bytes:
        async with self.session.post(self.url + CHAT, json={"stream": True, **body}) as answer:
            assert answer.status == 200
            return await answer.read()

    async def reads(self, **body: Any) -> list[bytes]:
        """What each read of the socket brought."""
        async with self.session.post(self.url + CHAT, json={"stream": True, **body}) as answer:
            return [data async for data in answer.content.iter_any()]

    async def chunks(self, **body: Any) -> list[Json]:
        events = (await self.stream(**body)).split(b"\n\n")
        return [json.loads(e.removeprefix(b"data: ")) for e in events if e.startswith(b"data: {")]

    async def whole(self, **body: Any) -> Json:
        async with self.session.post(self.url + CHAT, json=body) as answer:
            return await answer.json()

    async def status(self, **body: Any) -> int:
        async with self.session.post(self.url + CHAT, json={"stream": True, **body}) as answer:
            await answer.read()
            return answer.status


Through = Callable[..., Awaitable[Asked]]


@pytest.fixture
def upstream() -> Upstream:
    """The serve's script."""
    return Upstream()


@pytest.fixture
async def through(upstream: Upstream) -> AsyncIterator[Through]:
    """Start a proxy with these faults in front of the scripted serve."""
    async with AsyncExitStack() as stack:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", upstream.handle)
        serve = TestServer(app)
        await serve.start_server()
        stack.push_async_callback(serve.close)
        session = await stack.enter_async_context(ClientSession())

        async def start(*faults: str) -> Asked:
            proxy = TestServer(Proxy(str(serve.make_url("")).rstrip("/"), choose(faults), seed=7).app())
            await proxy.start_server()
            stack.push_async_callback(proxy.close)
            return Asked(session, str(proxy.make_url("")).rstrip("/"))

        yield start


@pytest.fixture
def reply(upstream: Upstream) -> Sequence[Json]:
    """A reply with reasoning, content, a tool call, running usage, a comment and the end marker."""
    counts = iter(range(1, 20))

    def usage() -> Json:
        return {"prompt_tokens": 100, "completion_tokens": next(counts), "prompt_tokens_details": {"cached_tokens": 64}}

    chunks = [
        delta(role="assistant", content=""),
        delta(reasoning="Let me see… ") | {"usage": usage()},
        *(delta(content=text) | {"usage": usage()} for text in ("The code", " is 40", "27", ", 永遠.")),
        delta(tool_calls=[{"index": 0, "id": "c1", "type": "function", "function": {"name": "find", "arguments": ""}}]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": '{"a": 1}'}}]),
        delta(finish="tool_calls"),
        {"model": "m", "choices": [], "usage": usage()},
    ]
    upstream.writes = [event(chunks[0]), b": keep-alive\n\n", *map(event, chunks[1:]), b"data: [DONE]\n\n"]
    message = {"role": "assistant", "content": "The code is 4027.", "reasoning": "Let me see."}
    upstream.whole = {
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 64}},
    }
    return chunks
