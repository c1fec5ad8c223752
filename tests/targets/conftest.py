"""Small real serves on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from tests.serving import running

Serve = Callable[[dict[str, object]], str]


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
            running(Starlette(routes=[_route(path, answer) for path, answer in pages.items()]))
        )
