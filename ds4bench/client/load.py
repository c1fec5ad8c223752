"""Batches of requests that start together: barrier, deadlines, and how well the client itself kept up."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import httpx

from ds4bench.client.heartbeat import Heartbeat, percentile
from ds4bench.client.timeline import build_result
from ds4bench.client.transport import Exchange, HttpRequest, Transport
from ds4bench.core import BatchResult, ClientHealth, RequestResult

OnResult = Callable[[int, RequestResult], None]
OnFirstToken = Callable[[int, float], None]

OPEN_TIMEOUT_S = 60.0

_TOKEN = re.compile(rb'"(?:content|reasoning|reasoning_content|text|arguments)":\s*"[^"]')
"""A cheap look for the first token, for progress only; the measurement decodes the chunks."""


class LoadClient:
    """Sends batches over one transport. An async context manager that closes the transport."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def __aenter__(self) -> LoadClient:
        """Nothing is opened before the first batch says how many connections it needs."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self._transport.close()

    async def run_batch(
        self,
        requests: Sequence[HttpRequest],
        *,
        deadline_s: float,
        on_result: OnResult | None = None,
        on_first_token: OnFirstToken | None = None,
    ) -> BatchResult:
        """Send all requests at once and wait for all of them.

        Connections are open before the barrier. Each request has ``deadline_s`` seconds in all; one that fails is a failed
        result, never an exception and never sent again. ``on_result`` is called as each request finishes, in the event
        loop. Cancellation passes through after that.
        """
        opening = await self._open(len(requests))
        if isinstance(opening, RequestResult):
            return _nothing_sent(requests, opening, on_result)
        load = _Load()
        heartbeat = Heartbeat()
        heartbeat.start()
        async with _quiet_interpreter():
            cpu, started = time.process_time(), time.perf_counter()
            load.barrier = started
            tasks = [
                asyncio.create_task(self._one(i, request, load, deadline_s, on_result, on_first_token))
                for i, request in enumerate(requests)
            ]
            try:
                results = await asyncio.gather(*tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await heartbeat.stop()
            wall, busy = time.perf_counter() - started, time.process_time() - cpu
        return BatchResult(
            results=list(results),
            health=_health(list(results), heartbeat.lags_ms, busy / wall if wall > 0 else 0.0),
            wall_s=wall,
            delivered_concurrency=float(load.peak),
        )

    async def _open(self, count: int) -> list[float] | RequestResult:
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                return await self._transport.open(count)
        except TimeoutError:
            detail = f"{count} connections were not open within {OPEN_TIMEOUT_S:g} s"
            return RequestResult(ok=False, error="connect", error_detail=detail)
        except (httpx.TransportError, OSError) as error:
            return RequestResult(ok=False, error="connect", error_detail=str(error) or type(error).__name__)

    async def _one(
        self,
        index: int,
        request: HttpRequest,
        load: _Load,
        deadline_s: float,
        on_result: OnResult | None,
        on_first_token: OnFirstToken | None,
    ) -> RequestResult:
        exchange = Exchange()
        if on_first_token is not None:
            exchange.on_data = _first_token_watch(exchange, index, on_first_token)
        error: str | None = None
        detail: str | None = None
        load.enter()
        try:
            async with asyncio.timeout(deadline_s) as limit:
                await self._transport.exchange(request, exchange)
        except TimeoutError as failure:  # the operating system's own timeout of a connection is one too
            error, detail = ("deadline", f"no end of the stream within {deadline_s:g} s")
            if not limit.expired():
                error, detail = "disconnect", str(failure)
        except httpx.ConnectError as failure:
            error, detail = "connect", str(failure)
        except (httpx.TransportError, OSError) as failure:
            error, detail = "disconnect", str(failure) or type(failure).__name__
        finally:
            load.leave()
        start = (exchange.t0 or time.perf_counter()) - load.barrier
        async with load.decoding:
            await asyncio.sleep(0)  # one reply a turn of the loop, so that streams still running are stamped in between
        result = build_result(exchange, start_s=start, lateness_ms=start * 1000, error=error, detail=detail)
        if on_result is not None:
            on_result(index, result)
        return result


class _Load:
    """Requests in flight, now and at most."""

    def __init__(self) -> None:
        self.barrier = 0.0
        self.decoding = asyncio.Lock()
        self.peak = 0
        self._now = 0

    def enter(self) -> None:
        self._now += 1
        self.peak = max(self.peak, self._now)

    def leave(self) -> None:
        self._now -= 1


def _first_token_watch(exchange: Exchange, index: int, report: OnFirstToken) -> Callable[[float, bytes], None]:
    def watch(now: float, data: bytes) -> None:
        if _TOKEN.search(data):
            exchange.on_data = None
            report(index, now - (exchange.t0 or now))

    return watch


def _health(results: list[RequestResult], lags_ms: list[float], cpu_share: float) -> ClientHealth:
    reads = sum(result.reads for result in results)
    return ClientHealth(
        heartbeat_lag_p50_ms=percentile(lags_ms, 0.5),
        heartbeat_lag_p99_ms=percentile(lags_ms, 0.99),
        heartbeat_lag_max_ms=max(lags_ms, default=0.0),
        lateness_max_ms=max((result.lateness_ms for result in results), default=0.0),
        burst_share=sum(result.burst_reads for result in results) / reads if reads else 0.0,
        cpu_share=cpu_share,
    )


def _nothing_sent(requests: Sequence[HttpRequest], failure: RequestResult, on_result: OnResult | None) -> BatchResult:
    """The serve could not be reached: every request failed before it was sent."""
    for index in range(len(requests)):
        if on_result is not None:
            on_result(index, failure)
    health = _health([failure], [], 0.0)
    return BatchResult(results=[failure] * len(requests), health=health, wall_s=0.0, delivered_concurrency=0.0)


@asynccontextmanager
async def _quiet_interpreter() -> AsyncIterator[None]:
    """No garbage collection while a batch is timed."""
    enabled = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
