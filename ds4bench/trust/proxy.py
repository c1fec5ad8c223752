"""``python -m ds4bench.trust.proxy``: an HTTP proxy in front of a serve on loopback that breaks replies on purpose.

Without a fault every byte is passed on as it comes, read by read. With one, generation requests (``/v1/completions``,
``/v1/chat/completions``) are taken apart into events; an event that no fault changes keeps its bytes. Events are stamped
when they are read and held against that stamp, so that delays do not add up. The proxy never retries and keeps nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from aiohttp import (
    ClientConnectorError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ServerDisconnectedError,
    TCPConnector,
    web,
)

from ds4bench.errors import SpecError
from ds4bench.store import documents
from ds4bench.trust.proxy_faults import ChosenFault, choose, listing
from ds4bench.trust.reply_faults import Arrival, Json, ReplyFault, has_text

_GENERATION = ("/v1/completions", "/v1/chat/completions")
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer", "proxy-connection"}
)
_PREFIX = b"data: "


@dataclass
class _Event:
    """One event on its way out."""

    data: bytes
    due_s: float
    index: int  # of the last token chunk so far


@dataclass
class _Course:
    """How far a stream has come."""

    request_s: float
    first_s: float | None = None
    index: int = -1
    due_s: float = 0.0

    def stamp(self, chunk: Json | None, now_s: float, faults: Sequence[ReplyFault]) -> float:
        """The instant before which an event that came at ``now_s`` must not go out. Later events are never earlier."""
        if chunk is not None and has_text(chunk):
            self.index += 1
            self.first_s = now_s if self.first_s is None else self.first_s
        if self.first_s is None:  # the head of a stream says nothing yet
            return now_s
        arrival = Arrival(self.request_s, self.first_s, now_s, self.index)
        self.due_s = max(self.due_s, now_s + sum(fault.hold_s(arrival) for fault in faults))
        return self.due_s


@dataclass
class Proxy:
    """The application's handlers. ``upstream`` is the serve's root."""

    upstream: str
    faults: Sequence[ChosenFault]
    seed: int = 0
    _numbers: count[int] = field(default_factory=lambda: count(1))
    _session: ClientSession | None = None

    def app(self) -> web.Application:
        """The application; opens and closes the connections to the serve with its own life."""
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self.handle)
        app.cleanup_ctx.append(self._connected)
        return app

    async def _connected(self, _: web.Application) -> AsyncIterator[None]:
        session = ClientSession(
            timeout=ClientTimeout(total=None, sock_connect=10),
            auto_decompress=False,
            connector=TCPConnector(limit=0),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )
        async with session:
            self._session = session
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request: passed on as it is, or broken."""
        arrived_s = time.monotonic()
        body = await request.read()
        generation = request.method == "POST" and request.path in _GENERATION
        faults = self._begin() if generation else []
        try:
            for fault in faults:
                if (status := fault.status()) is not None:
                    return web.json_response({"error": {"message": "injected by the proxy"}}, status=status)
            if faults:
                body = await self._asked(request, body, faults)
            async with self._ask(request, body, changed=bool(faults)) as answer:
                if not faults or answer.status != 200:
                    return await _as_it_is(request, answer)
                if "text/event-stream" in answer.headers.get("content-type", ""):
                    return await _broken_stream(request, answer, faults, _Course(arrived_s))
                return await _broken_whole(answer, faults, arrived_s)
        except (ClientConnectorError, ServerDisconnectedError) as error:
            return web.json_response({"error": {"message": f"the serve cannot be reached: {error}"}}, status=502)

    def _begin(self) -> list[ReplyFault]:
        number = next(self._numbers)
        return [chosen.begin(number, self.seed) for chosen in self.faults]

    async def _asked(self, request: web.Request, body: bytes, faults: Sequence[ReplyFault]) -> bytes:
        """The body that the serve gets, once every primer has been answered."""
        given: Json = json.loads(body)
        asked = given
        for fault in faults:
            asked = fault.request(asked)
            if (primer := fault.primer(asked)) is not None:
                async with self._ask(request, json.dumps(primer).encode(), changed=True) as answer:
                    await answer.read()
        return body if asked == given else json.dumps(asked, ensure_ascii=False).encode()

    @contextlib.asynccontextmanager
    async def _ask(self, request: web.Request, body: bytes, *, changed: bool) -> AsyncIterator[ClientResponse]:
        headers = {
            k: v for k, v in request.headers.items() if k.lower() not in {*_HOP_BY_HOP, "host", "content-length"}
        }
        if changed:
            headers["Accept-Encoding"] = "identity"
        assert self._session is not None
        async with self._session.request(
            request.method, self.upstream + request.path_qs, data=body or None, headers=headers, allow_redirects=False
        ) as answer:
            yield answer


async def _as_it_is(request: web.Request, answer: ClientResponse) -> web.StreamResponse:
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_headers(answer))
    await response.prepare(request)
    async for data in answer.content.iter_any():
        await response.write(data)
    await response.write_eof()
    return response


async def _broken_whole(answer: ClientResponse, faults: Sequence[ReplyFault], request_s: float) -> web.Response:
    reply: Json = json.loads(await answer.read())
    for fault in faults:
        reply = fault.whole(reply)
    now_s = time.monotonic()
    await asyncio.sleep(sum(fault.hold_s(Arrival(request_s, now_s, now_s, 0)) for fault in faults))
    return web.json_response(reply, status=answer.status)


async def _broken_stream(
    request: web.Request, answer: ClientResponse, faults: Sequence[ReplyFault], course: _Course
) -> web.StreamResponse:
    """Events are read and stamped by a task of their own: what is held does not hold up the reading."""
    headers = {key: value for key, value in _headers(answer).items() if key.lower() != "content-length"}
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(request)
    queue: asyncio.Queue[_Event | None] = asyncio.Queue()
    reader = asyncio.create_task(_read(answer, faults, course, queue))
    try:
        await _write(response, queue, faults)
        await reader
    finally:
        reader.cancel()
    await response.write_eof()
    return response


async def _read(
    answer: ClientResponse, faults: Sequence[ReplyFault], course: _Course, queue: asyncio.Queue[_Event | None]
) -> None:
    rest = b""
    try:
        async for data in answer.content.iter_any():
            now_s = time.monotonic()
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                chunk = parsed(event)
                due_s = course.stamp(chunk, now_s, faults)
                for out in [event] if chunk is None else broken(event, chunk, faults):
                    queue.put_nowait(_Event(out + b"\n\n", due_s, course.index))
        if rest:
            queue.put_nowait(_Event(rest, course.due_s, course.index))
    finally:
        queue.put_nowait(None)


async def _write(
    response: web.StreamResponse, queue: asyncio.Queue[_Event | None], faults: Sequence[ReplyFault]
) -> None:
    group, waiting = max(fault.group() for fault in faults), list[bytes]()
    while (event := await queue.get()) is not None:
        await asyncio.sleep(event.due_s - time.monotonic())
        waiting.append(event.data)
        if len(waiting) >= group:
            await _send(response, waiting, faults)
        if any(fault.hangs(event.index) for fault in faults):
            await asyncio.Event().wait()  # until the client goes away
    await _send(response, waiting, faults)


async def _send(response: web.StreamResponse, waiting: list[bytes], faults: Sequence[ReplyFault]) -> None:
    pieces = [b"".join(waiting)] if waiting else []
    waiting.clear()
    for fault in faults:
        pieces = [piece for data in pieces for piece in fault.pieces(data)]
    for piece in pieces:
        await response.write(piece)


def parsed(event: bytes) -> Json | None:
    """The chunk in an event; None for comments, ``[DONE]`` and whatever else is not one JSON object."""
    if not event.startswith(_PREFIX):
        return None
    try:
        chunk = json.loads(event.removeprefix(_PREFIX))
    except ValueError:
        return None
    return chunk if isinstance(chunk, dict) else None


def broken(event: bytes, chunk: Json, faults: Sequence[ReplyFault]) -> list[bytes]:
    """The events that an event becomes; with its own bytes where nothing has changed."""
    chunks = [chunk]
    for fault in faults:
        chunks = [out for one in chunks for out in fault.chunk(one)]
    if chunks == [chunk]:
        return [event]
    return [_PREFIX + json.dumps(out, ensure_ascii=False).encode() for out in chunks]


def _headers(answer: ClientResponse) -> dict[str, str]:
    return {key: value for key, value in answer.headers.items() if key.lower() not in {*_HOP_BY_HOP, "date", "server"}}


async def serve(proxy: Proxy, host: str, port: int, port_file: Path | None) -> None:
    """Serve until SIGTERM or SIGINT. A client that goes away cancels its request at the serve too."""
    runner = web.AppRunner(proxy.app(), handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    chosen = runner.addresses[0][1]
    if port_file is not None:
        documents.write_whole(port_file, f"{chosen}\n".encode())
    sys.stderr.write(f"http://{host}:{chosen} in front of {proxy.upstream}: {_named(proxy.faults)}\n")
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await runner.cleanup()


def _named(faults: Sequence[ChosenFault]) -> str:
    return ", ".join(fault.text for fault in faults) or "no fault"


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m ds4bench.trust.proxy", description=__doc__)
    parser.add_argument("--upstream", metavar="URL", help="the serve's root, e.g. http://127.0.0.1:8000")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one (default)")
    parser.add_argument("--port-file", type=Path, help="write the port here once the proxy listens")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME[:ARGUMENT]", help="may be repeated")
    parser.add_argument("--list-faults", action="store_true", help="say what faults there are, and stop")
    parser.add_argument("--seed", type=int, default=0, help="of faults that draw at random")
    options = parser.parse_args(argv)
    if options.list_faults:
        sys.stdout.write(listing() + "\n")
        return 0
    if not options.upstream:
        parser.error("--upstream is needed, e.g. --upstream http://127.0.0.1:8000")
    try:
        proxy = Proxy(options.upstream.rstrip("/").removesuffix("/v1"), choose(options.fault), options.seed)
        asyncio.run(serve(proxy, options.host, options.port, options.port_file))
    except SpecError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot listen on {options.host}:{options.port}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
