"""Calls that are not timed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError


async def test_pages_json_and_text(server: Any) -> None:
    server.pages = {
        "/version": ("200 OK", b'{"version": "1"}'),
        "/metrics": ("200 OK", b"a 1\n"),
        "/none": ("404 Not Found", b"nothing"),
        "/tokenize": ("200 OK", b'{"count": 3}'),
    }
    control = ControlClient(server.url + "/", {"authorization": "Bearer key"})
    try:
        assert await control.health()
        assert await control.get_json("/version") == {"version": "1"}
        assert await control.metrics_text() == "a 1\n"
        assert await control.get_json("/none") is None
        assert await control.get_text("/none") is None
        assert await control.get_json("/metrics") is None
        assert await control.post_json("/tokenize", {"prompt": "x"}) == (200, {"count": 3})
    finally:
        await control.close()
    assert all(headers["authorization"] == "Bearer key" for _, headers, _ in server.seen)


async def test_a_serve_that_is_gone_is_said_in_one_line() -> None:
    control = ControlClient("http://127.0.0.1:9")
    try:
        assert not await control.health()
        assert await control.metrics_text() is None
        with pytest.raises(TargetError, match=r"http://127\.0\.0\.1:9/version cannot be reached"):
            await control.get_json("/version")
    finally:
        await control.close()


async def test_a_connection_that_the_serve_closed_after_an_answer_is_opened_again() -> None:
    connections: list[int] = []

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")  # as if more requests were welcome
        await writer.drain()
        writer.transport.abort()

    async with await asyncio.start_server(answer_once, "127.0.0.1", 0) as serve:
        control = ControlClient(f"http://127.0.0.1:{serve.sockets[0].getsockname()[1]}")
        try:
            assert await control.get_json("/v1/models") == {}
            assert await control.post_json("/tokenize", {}) == (200, {})
        finally:
            await control.close()
    assert len(connections) == 2


async def test_a_serve_that_closes_every_connection_is_not_asked_for_ever() -> None:
    connections: list[int] = []

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as serve:
        control = ControlClient(f"http://127.0.0.1:{serve.sockets[0].getsockname()[1]}")
        try:
            with pytest.raises(TargetError, match="cannot be reached"):
                await control.post_json("/tokenize", {})
        finally:
            await control.close()
    assert len(connections) == 2
