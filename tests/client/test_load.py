"""Batches: connections before the clock, a barrier, results as they come, and the client's own health."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from ds4bench.client.load import LoadClient
from ds4bench.client.transport import HttpRequest, HttpxAiohttpTransport
from ds4bench.errors import TargetDiedError


def _answer(s: Any, pause: float = 0.1) -> list[tuple[float, bytes]]:
    return [(pause, s.chunk(content="a")), (0.05, s.chunk(content="b", finish="stop") + s.usage(2) + s.done)]


async def test_all_requests_are_in_flight_at_once_on_connections_opened_before(batch: Any, server: Any, s: Any) -> None:
    result = await batch(_answer(s), 8)
    assert all(one.ok for one in result.results)
    assert result.delivered_concurrency == 8
    assert server.connections == 8
    methods = [request.split()[0] for request, _, _ in server.seen]
    assert methods == ["GET"] * 8 + ["POST"] * 8
    assert result.wall_s >= 0.14
    assert result.health.lateness_max_ms == max(one.lateness_ms for one in result.results)
    assert result.health.cpu_share > 0


async def test_connections_are_kept_between_batches(server: Any, s: Any, script: Any) -> None:
    server.script = script(_answer(s, 0.0))
    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        for count in (4, 2, 4):
            result = await client.run_batch([HttpRequest(path="/v1/x", body=b"{}")] * count, deadline_s=20)
            assert all(one.ok for one in result.results)
    assert server.connections == 4


async def test_headers_and_body_arrive_as_given(batch: Any, server: Any, s: Any) -> None:
    await batch(_answer(s, 0.0))
    request, headers, body = server.seen[-1]
    assert request == "POST /v1/chat/completions"
    assert (headers["authorization"], headers["content-type"], body) == ("Bearer key", "application/json", b'{"n": 0}')


async def test_results_come_at_once_and_first_tokens_before_them(batch: Any, s: Any) -> None:
    seen: list[tuple[str, int]] = []
    result = await batch(
        _answer(s),
        4,
        on_result=lambda index, _: seen.append(("result", index)),
        on_first_token=lambda index, ttft_s: seen.append(("token", index)),
    )
    assert sorted(seen) == [(kind, i) for kind in ("result", "token") for i in range(4)]
    assert {kind for kind, _ in seen[:4]} == {"token"}
    assert len(result.results) == 4


async def test_the_first_token_that_is_announced_is_the_one_that_is_measured(one: Any, s: Any) -> None:
    announced: list[float] = []
    steps = [(0.05, s.chunk(role="assistant", content="")), *_answer(s)]
    result = await one(steps, on_first_token=lambda _, ttft_s: announced.append(ttft_s))
    assert announced == [result.ttft_s]


async def test_cancelling_keeps_what_was_reported_and_ends_the_rest(server: Any, s: Any, script: Any) -> None:
    server.script = script([(0.0, s.chunk(content="a")), (60, b"")])
    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        seen = asyncio.Event()
        work = asyncio.create_task(
            client.run_batch([HttpRequest(path="/x", body=b"{}")], deadline_s=100, on_first_token=lambda *_: seen.set())
        )
        await seen.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
    assert gc.isenabled()


async def test_a_serve_that_is_not_there_fails_every_request() -> None:
    listening = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    listening.close()
    await listening.wait_closed()
    seen: list[int] = []
    async with LoadClient(HttpxAiohttpTransport(f"http://127.0.0.1:{port}")) as client:
        requests = [HttpRequest(path="/x", body=b"{}")] * 2
        result = await client.run_batch(requests, deadline_s=5, on_result=lambda index, _: seen.append(index))
    assert [one.error for one in result.results] == ["connect", "connect"]
    assert seen == [0, 1]


async def test_an_exception_of_on_result_is_not_swallowed(batch: Any, s: Any) -> None:
    def full(index: int, result: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        await batch(_answer(s, 0.0), 2, on_result=full)
    assert gc.isenabled()


async def test_a_closed_loop_keeps_its_slots_busy_and_knows_its_steady_window(server: Any, s: Any, script: Any) -> None:
    server.script = script(_answer(s, 0.05))
    order: list[str] = []

    def once(index: int) -> Any:
        async def run(send: Any) -> None:
            order.append(f"start {index}")
            assert (await send(HttpRequest(path="/v1/x", body=b"{}"))).ok
            order.append(f"end {index}")

        return run

    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        result = await client.run_scripts([once(i) for i in range(6)], deadline_s=20, slots=2)
    assert server.connections == 2
    assert order[:2] == ["start 0", "start 1"]
    running = 0
    for event in order:
        running += 1 if event.startswith("start") else -1
        assert running <= 2
    assert result.steady_start_s is not None
    assert result.steady_end_s is not None
    assert 0 <= result.steady_start_s < result.steady_end_s <= result.wall_s
    assert 1.5 < result.delivered_concurrency <= 2
    assert len(result.results) == 6


async def test_an_open_batch_has_no_steady_window(batch: Any, s: Any) -> None:
    result = await batch(_answer(s, 0.0), 3)
    assert (result.steady_start_s, result.steady_end_s) == (None, None)


async def test_a_script_builds_its_next_request_from_the_last_reply(server: Any, s: Any, script: Any) -> None:
    server.script = script(_answer(s, 0.0))

    async def talk(send: Any) -> None:
        first = await send(HttpRequest(path="/v1/x", body=b"1"))
        await send(HttpRequest(path="/v1/x", body=first.content.encode()))

    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        result = await client.run_scripts([talk], deadline_s=20)
    assert [body for request, _, body in server.seen if request.startswith("POST")] == [b"1", b"ab"]
    first, second = result.results
    assert second.start_s > first.start_s + (first.e2e_s or 0)
    assert second.lateness_ms < 1000 * second.start_s  # late by its own delay, not by the time of the first request


async def test_what_a_script_raises_ends_the_batch(server: Any, s: Any, script: Any) -> None:
    server.script = script(_answer(s, 0.0))

    async def broken(send: Any) -> None:
        raise KeyError("a mistake of a workload")

    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        with pytest.raises(KeyError):
            await client.run_scripts([broken], deadline_s=5)


def _asking(send_log: list[str], times: int = 3) -> Any:
    async def run(send: Any) -> None:
        for _ in range(times):
            result = await send(HttpRequest(path="/v1/x", body=b"{}"))
            send_log.append(str(result.error))

    return run


async def test_a_serve_that_hangs_is_asked_once_and_given_up_with_everything_kept(
    server: Any, s: Any, script: Any
) -> None:
    server.script = script([(0.0, s.chunk(content="a")), (60, b"")])
    asked: list[int] = []
    kept: list[list[str]] = [[], [], []]

    async def hangs() -> str | None:
        asked.append(1)
        await asyncio.sleep(0.05)
        return "no token for a plain question"

    async def waits(send: Any) -> None:
        await asyncio.Event().wait()

    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        scripts = [_asking(kept[0]), _asking(kept[1]), _asking(kept[2]), waits]
        with pytest.raises(TargetDiedError, match="plain question"):
            await client.run_scripts(scripts, deadline_s=2.0, slots=3, hangs=hangs)
    assert asked == [1]
    assert kept == [["deadline"], ["deadline"], ["deadline"]]  # each stream's one request, and nothing behind it


async def test_a_single_stream_that_hangs_ends_nothing_while_the_serve_answers(
    server: Any, s: Any, script: Any
) -> None:
    server.script = script([(0.0, s.chunk(content="a")), (60, b"")])
    kept: list[str] = []

    async def answers() -> str | None:
        return None

    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        result = await client.run_scripts([_asking(kept, 2)], deadline_s=0.2, hangs=answers)
    assert kept == ["deadline", "deadline"]
    assert [one.error for one in result.results] == ["deadline", "deadline"]


async def test_nobody_asks_while_another_stream_moves(server: Any, s: Any, script: Any) -> None:
    server.script = script([*((0.05, s.chunk(content="a")) for _ in range(100)), (60, b"")])

    async def hangs() -> str | None:
        raise AssertionError("streams moved until the deadline")

    async with LoadClient(HttpxAiohttpTransport(server.url)) as client:
        result = await client.run_scripts([_asking([], 1)], deadline_s=3.0, hangs=hangs)
    assert result.results[0].error == "deadline"
