"""HTTP underneath the timed client: connections opened before the clock starts, bytes stamped as the socket yields them.

The httpx API on the httpx-aiohttp transport. A reply's bytes are stamped in the protocol's ``data_received``, before any
coroutine is woken: under load a woken reader is late by the work of all readers before it, the stamp is not. Nothing is
decoded while a stream runs.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import aiohttp
import httpx
import msgspec
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport

READ_BUFFER = 64 * 2**20
"""Bytes of a reply that may wait unread before reading pauses: more than any reply, so that a stamp is never late."""

_NOT_MAPPED = (aiohttp.ClientError, HttpProcessingError)
"""What httpx-aiohttp lets through: replies that are not HTTP."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A POST with a body serialised before the clock starts. ``streamed``: the body asks for a stream of events."""

    path: str
    body: bytes
    headers: dict[str, str] = {}
    streamed: bool = True


@dataclass
class Exchange:
    """One request and its reply, filled in while bytes arrive, so that a cancelled exchange keeps what it has.

    Instants are ``time.perf_counter`` seconds. ``marks`` are (instant, body bytes received by then).
    """

    t0: float | None = None
    status: int | None = None
    retry_after_s: float | None = None
    connect_ms: float | None = None
    parts: list[bytes] = field(default_factory=list)
    marks: list[tuple[float, int]] = field(default_factory=list)
    on_data: Callable[[float, bytes], None] | None = None

    @property
    def body(self) -> bytes:
        """The reply's body as far as it has arrived."""
        return b"".join(self.parts)


class Transport(Protocol):
    """Sends timed requests. Injected, so that a test or another stack can take its place."""

    async def open(self, connections: int) -> list[float]:
        """Have this many connections open and used a moment ago; returns the time of each such use, in ms."""
        ...

    async def exchange(self, request: HttpRequest, into: Exchange) -> None:
        """Send the request and receive the reply to its end. Raises httpx.TransportError when the connection fails."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


_current: ContextVar[Exchange | None] = ContextVar("_current", default=None)


class _StampingTransport:
    """A connection's transport that notes when the first byte of a request is handed to the socket."""

    __slots__ = ("_handler", "_transport")

    def __init__(self, transport: asyncio.Transport, handler: _StampingHandler) -> None:
        self._transport = transport
        self._handler = handler

    def write(self, data: bytes) -> None:
        """Stamp t0 at the first write of an exchange, then write."""
        self._handler.sending()
        self._transport.write(data)

    def writelines(self, parts: Iterable[bytes]) -> None:
        """Stamp t0 at the first write of an exchange, then write."""
        self._handler.sending()
        self._transport.writelines(parts)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _StampingHandler(ResponseHandler):
    """aiohttp's protocol, noting when the socket yielded which part of the reply.

    Reads are stamped at once and parsed in the loop's next turn: when the tokens of many streams arrive together, no stamp
    waits for the parsing of another stream.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.connect_ms: float | None = None
        self._exchange: Exchange | None = None
        self._before: StreamReader | None = None
        self._reply: StreamReader | None = None
        self._reads: list[tuple[float, bytes]] = []

    def begin(self, exchange: Exchange) -> None:
        """The next request and reply on this connection belong to ``exchange``."""
        self._exchange = exchange
        self._before, self._reply = self._payload, None
        exchange.connect_ms = self.connect_ms

    def end(self) -> None:
        """What comes from now on belongs to nobody."""
        self._parse()
        self._exchange = None

    def sending(self) -> None:
        """Bytes of a request are about to be written."""
        if self._exchange is not None and self._exchange.t0 is None:
            self._exchange.t0 = time.perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Put the stamp of t0 between aiohttp and the socket."""
        super().connection_made(transport)
        self.transport = cast(asyncio.Transport, _StampingTransport(cast(asyncio.Transport, transport), self))

    def data_received(self, data: bytes) -> None:
        """Stamp now, parse soon."""
        self._reads.append((time.perf_counter(), data))
        if len(self._reads) == 1:
            self._loop.call_soon(self._parse)

    def eof_received(self) -> None:
        """Parse what is left first."""
        self._parse()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Parse what is left first."""
        self._parse()
        super().connection_lost(exc)
        reply = self._reply
        # aiohttp leaves a reply open whose framing it could not parse: its reader would wait for ever.
        if reply is not None and not reply.is_eof() and reply.exception() is None:
            reply.set_exception(aiohttp.ClientPayloadError("the reply is not valid HTTP"))

    def _parse(self) -> None:
        reads, self._reads = self._reads, []
        for now, data in reads:
            super().data_received(data)
            exchange = self._exchange
            if exchange is None:
                continue
            if self._reply is None and self._payload is not self._before:
                self._reply = self._payload
            reply = self._reply
            if reply is None:
                continue
            if reply.exception() is None:  # taken at once: aiohttp drops what is unread when a connection is lost
                exchange.parts.append(reply.read_nowait())
            exchange.marks.append((now, reply.total_bytes))
            if exchange.on_data is not None:
                exchange.on_data(now, data)

    async def wait_reply(self) -> None:
        """Wait, woken once, until the reply is complete. Raises aiohttp.ClientError if the connection is lost."""
        if self._reply is None:  # a reply without a body
            return
        failure = self._reply.exception()
        if failure is not None:
            raise failure
        await self._reply.wait_eof()


class _Connector(aiohttp.TCPConnector):
    """Connections that tell the exchange in whose context they were taken from the pool."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=3600, use_dns_cache=True)
        loop = asyncio.get_running_loop()
        self._factory = cast("functools.partial[ResponseHandler]", functools.partial(_StampingHandler, loop))
        self.handlers: dict[int, _StampingHandler] = {}

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109 - aiohttp's signature
        started = time.perf_counter()
        connection = await super().connect(req, traces, timeout)
        handler = connection.protocol
        if isinstance(handler, _StampingHandler):
            if handler.connect_ms is None:
                handler.connect_ms = (time.perf_counter() - started) * 1000
            exchange = _current.get()
            if exchange is not None:
                handler.begin(exchange)
                self.handlers[id(exchange)] = handler
        return connection


class HttpxAiohttpTransport:
    """The default ``Transport``. Redirects are not followed, so a key never reaches another host."""

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers = {"accept-encoding": "identity", **(headers or {})}
        self._connector: _Connector | None = None
        self._transport: AiohttpTransport | None = None

    async def open(self, connections: int) -> list[float]:
        """See ``Transport``. Concurrent ``GET /health``, whatever it answers; none ends before all have a connection."""
        self._start()
        return list(await asyncio.gather(*(self._warm() for _ in range(connections))))

    async def exchange(self, request: HttpRequest, into: Exchange) -> None:
        """See ``Transport``."""
        transport, connector = self._start()
        headers = {**self._headers, "content-type": "application/json", **request.headers}
        message = httpx.Request("POST", self._base_url + request.path, headers=headers, content=request.body)
        token = _current.set(into)
        response: httpx.Response | None = None
        try:
            response = await transport.handle_async_request(message)
            into.status = response.status_code
            into.retry_after_s = retry_after_s(response.headers.get("retry-after"))
            await connector.handlers[id(into)].wait_reply()
        except _NOT_MAPPED as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error
        finally:
            _current.reset(token)
            handler = connector.handlers.pop(id(into), None)
            if handler is not None:
                handler.end()
            if response is not None:
                await response.aclose()

    async def close(self) -> None:
        """See ``Transport``."""
        if self._transport is not None:
            await self._transport.aclose()
        self._transport = self._connector = None

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
        message = httpx.Request("GET", f"{self._base_url}/health", headers=self._headers)
        try:
            response = await transport.handle_async_request(message)
            await response.aread()
            await response.aclose()
        except _NOT_MAPPED as error:
            raise httpx.ReadError(str(error) or type(error).__name__) from error
        return (time.perf_counter() - started) * 1000


def retry_after_s(header: str | None) -> float | None:
    """The header ``Retry-After`` in seconds; None for its rarer form, a date."""
    try:
        return float(header) if header else None
    except ValueError:
        return None
