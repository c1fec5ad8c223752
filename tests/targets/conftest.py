"""Small real serves on loopback."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Serve = Callable[[dict[str, object]], str]


@contextlib.contextmanager
def _running(app: Starlette) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _route(path: str, answer: object) -> Route:
    async def handler(request: Request) -> Response:
        found = answer(await request.json(), request) if callable(answer) else answer
        if isinstance(found, Response):
            return found
        return PlainTextResponse(found) if isinstance(found, str) else JSONResponse(found)

    return Route(path, handler, methods=["POST"] if callable(answer) else ["GET"])


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts serves from {path: JSON page, text page, or function of (body, request) for a POST}."""
    with contextlib.ExitStack() as stack:
        yield lambda pages: stack.enter_context(
            _running(Starlette(routes=[_route(path, answer) for path, answer in pages.items()]))
        )
