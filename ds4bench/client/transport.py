"""HTTP underneath the timed client: connections opened before the clock starts, bytes stamped as the socket yields them.

The httpx API on the httpx-aiohttp transport. A reply's bytes are stamped in the protocol's ``data_received``, before any
coroutine is woken: under load a woken reader is late by the work of all readers before it, the stamp is not. Nothing is
decoded while a stream runs.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import httpx
import msgspec
from aiohttp.client_proto import ResponseHandler
from httpx_aiohttp import AiohttpTransport

READ_BUFFER = 64 * 2**20
"""Bytes of a reply that may wait unread before reading pauses: more than any reply, so that a stamp is never late."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A POST with a body serialised before the clock starts."""

    path: str
    body: bytes
    headers: dict[str, str] = {}


@dataclass
class Exchange:
    """One request and its reply, filled in while bytes arrive, so that a cancelled exchange keeps what it has.

    Instants are ``time.perf_counter`` seconds. ``marks`` are (instant, body bytes received by then).
    """

    t0: float | None = None
    status: int | None = None
    body: bytes = b""
    marks: list[tuple[float, int]] = field(default_factory=list)
    on_data: Callable[[float, bytes], None] | None = None


class Transport(Protocol):
    """Sends timed requests. Injected, so that a test or another stack can take its place."""

    async def open(self, connections: int) -> list[float]:
        """Have at least this many connections open and used once; returns the time each new one took, in ms."""
        ...

    async def exchange(self, request: HttpRequest, into: Exchange) -> None:
        """Send the request and receive the reply to its end. Raises httpx.TransportError when the connection fails."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


_current: ContextVar[Exchange | None] = ContextVar("_current", default=None)


class _StampingHandler(ResponseHandler):
    """aiohttp's protocol, noting when the socket yielded which part of the reply."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.exchange: Exchange | None = None
        self._before: Any = None

    def begin(self, exchange: Exchange) -> None:
        """The next reply on this connection belongs to ``exchange``."""
        self.exchange = exchange
        self._before = self._payload

    def data_received(self, data: bytes) -> None:
        """Stamp, then parse."""
        now = time.perf_counter()
        super().data_received(data)
        exchange, payload = self.exchange, self._payload
        if exchange is None or payload is None or payload is self._before:
            return
        exchange.marks.append((now, payload.total_bytes))
        if exchange.on_data is not None:
            exchange.on_data(now, data)

    async def wait_reply(self) -> None:
        """Wait, woken once, until the reply is complete. Raises aiohttp.ClientError if the connection is lost."""
        if self._payload is not None and self._payload is not self._before:
            await self._payload.wait_eof()


class _Connector(aiohttp.TCPConnector):
    """Connections that tell the exchange in whose context they were taken from the pool."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=3600, use_dns_cache=True)
        loop = asyncio.get_running_loop()
        self._factory = functools.partial(_StampingHandler, loop)  # type: ignore[assignment]
        self.handlers: dict[int, _StampingHandler] = {}

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's signature
        connection = await super().connect(req, traces, timeout)
        exchange = _current.get()
        if exchange is not None and isinstance(connection.protocol, _StampingHandler):
            connection.protocol.begin(exchange)
            self.handlers[id(exchange)] = connection.protocol
        return connection


class HttpxAiohttpTransport:
    """The default ``Transport``. Redirects are not followed, so a key never reaches another host."""

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"accept-encoding": "identity", **(headers or {})}
        self._connector: _Connector | None = None
        self._transport: AiohttpTransport | None = None
        self._opened = 0

    async def open(self, connections: int) -> list[float]:
        """See ``Transport``. The connections are opened by concurrent ``GET /health``, whatever it answers."""
        self._start()
        missing = connections - self._opened
        if missing <= 0:
            return []
        times = await asyncio.gather(*(self._warm() for _ in range(connections)))
        self._opened = connections
        return list(times)

    async def exchange(self, request: HttpRequest, into: Exchange) -> None:
        """See ``Transport``."""
        transport, connector = self._start()
        headers = {**self._headers, "content-type": "application/json", **request.headers}
        message = httpx.Request("POST", self._base_url + request.path, headers=headers, content=request.body)
        token = _current.set(into)
        response: httpx.Response | None = None
        try:
            into.t0 = time.perf_counter()
            response = await transport.handle_async_request(message)
            into.status = response.status_code
            await connector.handlers[id(into)].wait_reply()
        except aiohttp.ClientError as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error
        finally:
            _current.reset(token)
            handler = connector.handlers.pop(id(into), None)
            if handler is not None:
                handler.exchange = None
            if response is not None:
                into.body = await _received(response, into)
                await response.aclose()

    async def close(self) -> None:
        """See ``Transport``."""
        if self._transport is not None:
            await self._transport.aclose()
        self._transport = self._connector = None
        self._opened = 0

    def _start(self) -> tuple[AiohttpTransport, _Connector]:
        if self._transport is None or self._connector is None:
            self._connector = _Connector()
            session = aiohttp.ClientSession(
                connector=self._connector,
                read_bufsize=READ_BUFFER,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
            )
            self._transport = AiohttpTransport(client=session)
        return self._transport, self._connector

    async def _warm(self) -> float:
        transport, _ = self._start()
        started = time.perf_counter()
        response = await transport.handle_async_request(
            httpx.Request("GET", f"{self._base_url}/health", headers=self._headers)
        )
        await response.aread()
        await response.aclose()
        return (time.perf_counter() - started) * 1000


async def _received(response: httpx.Response, exchange: Exchange) -> bytes:
    """The body bytes that have arrived, without waiting for more."""
    expected = exchange.marks[-1][1] if exchange.marks else 0
    parts: list[bytes] = []
    have = 0
    try:
        async for part in response.stream:  # type: ignore[union-attr]
            parts.append(part)
            have += len(part)
            if have >= expected:
                break
    except httpx.TransportError:
        pass  # a lost connection raises after what had arrived; the caller knows of the loss already
    return b"".join(parts)
