"""Batches of scripts that start at a barrier: slots, deadlines, and how well the client itself kept up.

A script sends one request after another and may build the next from the last reply; a plain request is the script that
sends once. An open batch has a slot for every script; in a closed loop fewer slots take the scripts in order.
"""

from __future__ import annotations

import asyncio
import gc
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import httpx

from ds4bench.client.heartbeat import Heartbeat, percentile
from ds4bench.client.timeline import build_result
from ds4bench.client.transport import Exchange, HttpRequest, Transport
from ds4bench.client.whole import build_whole_result
from ds4bench.core import BatchResult, ClientHealth, RequestResult
from ds4bench.errors import TargetDiedError

OnResult = Callable[[int, RequestResult], None]
OnFirstToken = Callable[[int, float], None]
Send = Callable[[HttpRequest], Awaitable[RequestResult]]
"""Sends one request now and waits for its end; a request that fails is a failed result, never an exception."""
Script = Callable[[Send], Awaitable[None]]
Hangs = Callable[[], Awaitable[str | None]]
"""Asks the serve for a token; the reason to give up if none comes, else None."""

OPEN_TIMEOUT_S = 60.0
_SILENT_SHARE = 0.5
"""Of the deadline: if a request reached it and no stream has said anything for so long, the whole serve may hang."""
_GIVING_UP_S = 5.0
"""Scripts that wait for another one, not for a reply, are cancelled after this time."""

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

        def once(index: int, request: HttpRequest) -> Script:
            async def script(send: Send) -> None:
                result = await send(request)
                if on_result is not None:
                    on_result(index, result)

            return script

        scripts = [once(index, request) for index, request in enumerate(requests)]
        return await self.run_scripts(scripts, deadline_s=deadline_s, on_first_token=on_first_token)

    async def run_scripts(
        self,
        scripts: Sequence[Script],
        *,
        deadline_s: float,
        slots: int | None = None,
        late: Collection[int] = (),
        on_first_token: OnFirstToken | None = None,
        hangs: Hangs | None = None,
    ) -> BatchResult:
        """Run all scripts, ``slots`` of them at a time (None: all at once), and wait for all of them.

        Connections are open before the barrier. Each request has ``deadline_s`` seconds in all and is never sent again.
        ``late`` are scripts that choose when they begin; the others are due at the barrier. ``on_first_token`` gets the
        script's index. What a script raises ends the batch; cancellation passes through.

        ``hangs`` is asked when a request reached its deadline and no stream has said anything for half of it. If it gives a
        reason, the requests in flight end as failed results, nothing more is sent, and TargetDiedError has the reason.
        """
        count = min(slots or len(scripts), len(scripts))
        opening = await self._open(count)
        load = _Load(count, len(scripts), refusal=opening if isinstance(opening, RequestResult) else None, hangs=hangs)
        heartbeat = Heartbeat()
        heartbeat.start()
        async with _quiet_interpreter():
            cpu, started = time.process_time(), time.perf_counter()
            load.begin(started)
            queue = iter(enumerate(scripts))
            tasks = [
                asyncio.create_task(self._slot(queue, load, deadline_s, late, on_first_token)) for _ in range(count)
            ]
            try:
                await load.wait_for(tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await heartbeat.stop()
            wall, busy = time.perf_counter() - started, time.process_time() - cpu
        return load.batch(heartbeat.lags_ms, 0.0 if load.refusal else wall, busy)

    async def _slot(
        self,
        queue: Iterator[tuple[int, Script]],
        load: _Load,
        deadline_s: float,
        late: Collection[int],
        on_first_token: OnFirstToken | None,
    ) -> None:
        """Take scripts from the queue until there is none."""
        due: float | None = load.barrier
        for index, script in queue:

            async def send(request: HttpRequest, index: int = index) -> RequestResult:
                nonlocal due
                load.raise_if_hung()
                known = None if index in late else due
                result = load.refusal or await self._one(index, request, load, known, deadline_s, on_first_token)
                due = None
                load.results[index].append(result)
                return result

            await script(send)
        load.drained()

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
        due: float | None,
        deadline_s: float,
        on_first_token: OnFirstToken | None,
    ) -> RequestResult:
        """One exchange. ``due`` is the barrier for a first request, else None: the instant of this call."""
        exchange = Exchange()
        if on_first_token is not None:
            exchange.on_data = _first_token_watch(exchange, index, on_first_token)
        error: str | None = None
        detail: str | None = None
        called = time.perf_counter()
        load.enter(exchange)
        try:
            async with asyncio.timeout(deadline_s) as limit:
                with load.may_be_given_up(limit):
                    await self._transport.exchange(request, exchange)
        except TimeoutError as failure:  # the operating system's own timeout of a connection is one too
            error, detail = ("deadline", load.hung or f"no end of the stream within {deadline_s:g} s")
            if not limit.expired():
                error, detail = "disconnect", str(failure)
            else:
                await load.reached_deadline(deadline_s)
        except httpx.ConnectError as failure:
            error, detail = "connect", str(failure)
        except (httpx.TransportError, OSError) as failure:
            error, detail = "disconnect", str(failure) or type(failure).__name__
        finally:
            load.leave(exchange)
        t0 = exchange.t0 or time.perf_counter()
        async with load.decoding:
            await asyncio.sleep(0)  # one reply a turn of the loop, so that streams still running are stamped in between
        lateness = (t0 - (called if due is None else due)) * 1000
        build = build_result if request.streamed else build_whole_result
        return build(exchange, start_s=t0 - load.barrier, lateness_ms=lateness, error=error, detail=detail)


class _Load:
    """Requests in flight, now, at most, and on average over the steady window of a closed loop."""

    def __init__(self, slots: int, scripts: int, refusal: RequestResult | None, hangs: Hangs | None) -> None:
        self.refusal = refusal  # the serve could not be reached: what every request gets
        self.hung: str | None = None  # why the batch was given up
        self._hangs = hangs
        self._asking = asyncio.Lock()
        self._given_up = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()
        self._exchanges: dict[int, Exchange] = {}
        self._heard = 0.0  # when a stream that has ended last said something
        self.results: list[list[RequestResult]] = [[] for _ in range(scripts)]
        self.decoding = asyncio.Lock()
        self.barrier = 0.0
        self._slots = slots
        self._closed_loop = scripts > slots
        self._now = self._peak = 0
        self._area, self._changed = 0.0, 0.0  # request-seconds in flight up to the last change
        self._full: tuple[float, float] | None = None  # (instant, area) when all slots were busy first
        self._drained: tuple[float, float] | None = None

    def begin(self, now: float) -> None:
        """The barrier falls."""
        self.barrier = self._changed = now

    def enter(self, exchange: Exchange) -> None:
        """A request goes out."""
        now = self._advance(1)
        self._exchanges[id(exchange)] = exchange
        self._peak = max(self._peak, self._now)
        if self._now == self._slots and self._full is None:
            self._full = now, self._area

    def leave(self, exchange: Exchange) -> None:
        """A request has ended."""
        self._advance(-1)
        self._heard = max(self._heard, _last_said(exchange))
        del self._exchanges[id(exchange)]

    @contextmanager
    def may_be_given_up(self, limit: asyncio.Timeout) -> Iterator[None]:
        """While inside, giving up the batch ends the request like its deadline."""
        self._limits.add(limit)
        try:
            yield
        finally:
            self._limits.discard(limit)

    async def reached_deadline(self, deadline_s: float) -> None:
        """A request was not answered in time: give the batch up if the whole serve hangs. One asks, others wait for it."""
        async with self._asking:
            if self._hangs is None or self.hung is not None or not self._silent_for(_SILENT_SHARE * deadline_s):
                return
            self.hung = await self._hangs()
            if self.hung is None:
                return
            for limit in self._limits:
                if not limit.expired():
                    limit.reschedule(asyncio.get_running_loop().time())
            self._given_up.set()

    def raise_if_hung(self) -> None:
        """Nothing more is sent to a serve that hangs."""
        if self.hung is not None:
            raise TargetDiedError(self.hung)

    async def wait_for(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Until all have ended, one has raised, or the batch was given up and they had time to end."""
        given_up = asyncio.create_task(self._given_up.wait())
        try:
            running = {*tasks}
            while running and not given_up.done():
                ended, left = await asyncio.wait({*running, given_up}, return_when=asyncio.FIRST_COMPLETED)
                running = {task for task in running if task in left}
                for task in ended - {given_up}:
                    if self.hung is None:  # else the replies of the others are still to be kept
                        task.result()
            if running:
                await asyncio.wait(running, timeout=_GIVING_UP_S)
        finally:
            given_up.cancel()
        self.raise_if_hung()

    def _silent_for(self, seconds: float) -> bool:
        heard = max([self._heard, self.barrier, *map(_last_said, self._exchanges.values())])
        return time.perf_counter() - heard >= seconds

    def drained(self) -> None:
        """A slot found nothing more to start."""
        if self._drained is None:
            self._drained = self._advance(0), self._area

    def batch(self, lags_ms: list[float], wall_s: float, busy_s: float) -> BatchResult:
        """The result of the whole batch."""
        results = [result for script in self.results for result in script]
        start = end = None
        delivered = float(self._peak)
        if self._closed_loop and self._full and self._drained and self._drained[0] > self._full[0]:
            start, end = self._full[0] - self.barrier, self._drained[0] - self.barrier
            delivered = (self._drained[1] - self._full[1]) / (end - start)
        return BatchResult(
            results=results,
            health=_health(results, lags_ms, busy_s / wall_s if wall_s > 0 else 0.0),
            wall_s=wall_s,
            delivered_concurrency=delivered,
            steady_start_s=start,
            steady_end_s=end,
        )

    def _advance(self, change: int) -> float:
        now = time.perf_counter()
        self._area += self._now * (now - self._changed)
        self._now, self._changed = self._now + change, now
        return now


def _last_said(exchange: Exchange) -> float:
    return exchange.marks[-1][0] if exchange.marks else 0.0


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
