"""A real HTTP server on loopback that plays a script of bytes and pauses, and shortcuts to measure it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from ds4bench.client.load import LoadClient
from ds4bench.client.transport import HttpRequest, HttpxAiohttpTransport
from ds4bench.core import BatchResult, RequestResult

Step = tuple[float, bytes]


@dataclass
class Script:
    """What to answer to a POST: (pause before, bytes) in order. ``cut`` closes without an end, in the middle."""

    steps: Sequence[Step]
    status: str = "200 OK"
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "text/event-stream"})
    cut: bool = False
    chunked: bool = True


class ScriptedServer:
    """Plays ``script`` to every POST, answers every GET with ``pages`` or an empty object."""

    def __init__(self) -> None:
        self.script = Script([])
        self.pages: dict[str, tuple[str, bytes]] = {}
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.connections = 0
        self.url = ""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = lines[0].split(" ")
        self.seen.append((f"{method} {path}", headers, body))
        if method == "GET" or path in self.pages:
            status, page = self.pages.get(path, ("200 OK", b"{}"))
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(page)}\r\n\r\n".encode() + page)
            return True
        return await self._play(self.script, writer)

    async def _play(self, script: Script, writer: asyncio.StreamWriter) -> bool:
        lines = [f"{name}: {value}" for name, value in script.headers.items()]
        if script.chunked:
            lines.append("transfer-encoding: chunked")
        writer.write("\r\n".join([f"HTTP/1.1 {script.status}", *lines, "", ""]).encode())
        for pause, data in script.steps:
            await writer.drain()
            await asyncio.sleep(pause)
            if data:
                writer.write(b"%x\r\n%s\r\n" % (len(data), data) if script.chunked else data)
        if script.cut or not script.chunked:
            await writer.drain()
            return False
        writer.write(b"0\r\n\r\n")
        return True


class Streams:
    """How scripts are written: events of the engines' shapes."""

    @staticmethod
    def event(value: Any) -> bytes:
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"

    @classmethod
    def chunk(cls, finish: str | None = None, usage: int | None = None, **delta: Any) -> bytes:
        value: dict[str, Any] = {"model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        if usage is not None:
            value["usage"] = {"prompt_tokens": 10, "completion_tokens": usage}
        return cls.event(value)

    @classmethod
    def usage(cls, completion: int, **more: Any) -> bytes:
        usage = {"prompt_tokens": 10, "completion_tokens": completion, **more}
        return cls.event({"model": "m", "choices": [], "usage": usage})

    done = b"data: [DONE]\n\n"


@pytest.fixture
def s() -> type[Streams]:
    """Shapes of events."""
    return Streams


@pytest.fixture
def script() -> type[Script]:
    """The script's class, for tests that need more than steps."""
    return Script


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    """A scripted server on a free loopback port."""
    scripted = ScriptedServer()
    listening = await asyncio.start_server(scripted.handle, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    yield scripted
    listening.close()


Batch = Callable[..., Awaitable[BatchResult]]


@pytest.fixture
def batch(server: ScriptedServer) -> Batch:
    """Play a script to ``count`` requests at once."""

    async def run(played: Script | Sequence[Step], count: int = 1, **options: Any) -> BatchResult:
        server.script = played if isinstance(played, Script) else Script(played)
        async with LoadClient(HttpxAiohttpTransport(server.url, {"authorization": "Bearer key"})) as client:
            requests = [HttpRequest(path="/v1/chat/completions", body=b'{"n": %d}' % i) for i in range(count)]
            return await client.run_batch(requests, **{"deadline_s": 20.0, **options})

    return run


@pytest.fixture
def one(batch: Batch) -> Callable[..., Awaitable[RequestResult]]:
    """Play a script to one request."""

    async def run(played: Script | Sequence[Step], **options: Any) -> RequestResult:
        return (await batch(played, 1, **options)).results[0]

    return run
