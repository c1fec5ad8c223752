"""Runs a gate's plan against a serve and records what happens: every request as it finishes, every batch when complete.

Repeats are the outer loop and cells the inner one, so that a drift of the machine spreads over all cells. Nothing here
decides anything; ``verdicts`` reads what is written, and may say between two batches that the gate is decided.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from ds4bench.client import load
from ds4bench.client.control import ControlClient
from ds4bench.client.cpu_share import foreign_cores, read_cpu_times
from ds4bench.client.load import LoadClient
from ds4bench.client.prometheus import delta, parse_counters
from ds4bench.client.transport import HttpRequest, HttpxAiohttpTransport
from ds4bench.core import (
    BatchResult,
    BatchRow,
    Cell,
    Phase,
    PlannedRequest,
    RequestResult,
    RequestRow,
    RunData,
    ScriptRow,
)
from ds4bench.errors import TargetDiedError, TargetError
from ds4bench.gpu_state import GpuState
from ds4bench.targets.pacing import paced
from ds4bench.targets.ready import first_token
from ds4bench.workloads.base import Batch, Script

if TYPE_CHECKING:
    from ds4bench.report.progress import Progress
    from ds4bench.spec.load import EffectiveGate
    from ds4bench.store.runs import RunWriter
    from ds4bench.targets.base import Endpoint, Target
    from ds4bench.workloads.base import Workload

_DEATH_GRACE_S = 2.0
"""A process that was killed is reaped within this time; a refused connection alone may be a full backlog."""
_SIGNS_OF_DEATH = frozenset({"connect", "disconnect", "deadline", "stream_error", "finish_abort", "finish_error"})
_PROBE_SHARE, _PROBE_LEAST_S, _PROBE_MOST_S = 0.25, 10.0, 120.0
"""Of a request's deadline: how long a serve that seems to hang has for one token."""


@dataclass(frozen=True)
class BatchKey:
    """One barrier: all scripts of a cell in one repeat, at its ``attempt``-th try (0 is the first)."""

    cell: Cell
    repeat: int
    phase: Phase
    attempt: int


def plan(
    cells: list[Cell], repeats: int, done: RunData | None, *, independent: bool = False, warm: set[str] | None = None
) -> Iterator[BatchKey]:
    """What is left to run, in order. A warm-up precedes each cell's first batch of this session; ``warm`` are the cells that
    had theirs, and grows.

    A batch that is complete in ``done`` is skipped. One that had begun is run again whole, as the next attempt: its
    requests must run beside each other to mean anything. Where its scripts are ``independent`` items the same attempt goes
    on instead. A run that was stopped because its gate was decided has nothing left.
    """
    if done is not None and done.stopped:
        return
    complete, begun = _history(done)
    warm = set() if warm is None else warm
    for repeat in range(repeats):
        for cell in cells:
            if (cell.id, repeat) in complete:
                continue
            if cell.id not in warm:
                warm.add(cell.id)
                yield BatchKey(cell, 0, "warmup", begun[cell.id, 0, "warmup"])
            attempt = begun[cell.id, repeat, "measure"]
            yield BatchKey(cell, repeat, "measure", max(0, attempt - 1) if independent else attempt)


def _history(done: RunData | None) -> tuple[set[tuple[str, int]], defaultdict[tuple[str, int, Phase], int]]:
    """(complete batches, the next attempt of each batch that has begun)."""
    complete: set[tuple[str, int]] = set()
    begun: defaultdict[tuple[str, int, Phase], int] = defaultdict(int)
    if done is not None:
        complete = {(b.cell, b.repeat) for b in done.batches if b.phase == "measure"}
        rows: list[RequestRow | BatchRow] = [*done.requests, *done.batches]
        for row in rows:
            key = (row.cell, row.repeat, row.phase)
            begun[key] = max(begun[key], row.attempt + 1)
    return complete, begun


class GateRunner:
    """One session of one run: a started target, its workload, and where the rows go.

    ``decided`` is asked after every measured batch; a reason ends the run, None goes on.
    """

    def __init__(
        self,
        gate: EffectiveGate,
        target: Target,
        endpoint: Endpoint,
        workload: Workload,
        writer: RunWriter,
        progress: Progress,
        *,
        probe_ms: Callable[[], float] | None,
        gpu_states: Callable[[], list[GpuState]] | None = None,
        decided: Callable[[], str | None] | None = None,
    ) -> None:
        self.gate = gate
        self.target = target
        self.endpoint = endpoint
        self.workload = workload
        self.writer = writer
        self.progress = progress
        self.probe_ms = probe_ms  # None for a serve on another machine: its speed is not this machine's
        self.gpu_states = gpu_states  # None likewise, and on a machine without GPUs
        self.decided = decided
        self.ended: dict[tuple[str, int, Phase, int], dict[int, ScriptRow]] = {}
        self.warm: set[str] = set()

    async def run(self, done: RunData | None, repeats: int | None = None) -> None:
        """Run what ``done`` lacks of ``repeats`` (default: the gate's). May be called again for more of them.

        Raises TargetDiedError when the serve is lost; everything finished is on disk. Raises TargetError and WorkloadError
        when a serve that lives cannot be asked for what the prompts are built with.
        """
        cells, repeats = self.gate.spec.matrix.cells(), repeats or self.gate.spec.repeats.count
        independent = self.gate.spec.declared.independent
        batches = list(plan(cells, repeats, done, independent=independent, warm=self.warm))
        if independent and done is not None:
            for row in done.scripts:
                self.ended.setdefault((row.cell, row.repeat, row.phase, row.attempt), {})[row.script] = row
        if not batches:
            return
        self.progress.start(cells, repeats)
        headers = self.endpoint.headers
        pacing = self.endpoint.pacing
        control = ControlClient(
            self.endpoint.base_url,
            headers,
            health_path=self.endpoint.dialect.health_path,
            pace=pacing.call if pacing is not None else None,
        )
        transport = HttpxAiohttpTransport(self.endpoint.base_url, headers)
        try:
            await self._prepare(control)
            async with LoadClient(transport) as client:
                for key in batches:
                    await self._batch(key, client, control)
                    if key.phase == "measure" and (reason := self._decided()):
                        self.writer.record_stop(reason)
                        self.progress.note(f"stopped early: {reason}")
                        return
        finally:
            self.progress.finish()
            await control.close()

    async def _prepare(self, control: ControlClient) -> None:
        """Have the prompts ready; again in a second call, because the workload keeps ``control``."""
        self.progress.phase("preparing the prompts")
        try:
            await self.workload.prepare(self.endpoint, control)
        except TargetDiedError:  # it says why by itself
            raise
        except TargetError:  # of a serve that lives it is the user's to mend
            await self._raise_if_dead(control)
            raise

    def _decided(self) -> str | None:
        return self.decided() if self.decided is not None else None

    async def _batch(self, key: BatchKey, client: LoadClient, control: ControlClient) -> None:
        batch = await self._scripts(key, control)
        if not batch.scripts:  # a gate without warm-up
            return
        ended = dict(self.ended.get((key.cell.id, key.repeat, key.phase, key.attempt), {}))
        left = [(number, script) for number, script in enumerate(batch.scripts) if number not in ended]
        sent = [0] * len(batch.scripts)
        scripts = [self._client_script(key, number, script, sent) for number, script in left]
        probe = self.probe_ms() if self.probe_ms is not None and key.phase == "measure" else None
        before = await self._counters(control)
        gpus_before = self._gpu_states(key)
        pids = [os.getpid(), self.target.pid] if self.target.pid is not None else None
        cpu = read_cpu_times(pids) if pids else None
        self.progress.batch_started(key.cell, key.repeat, key.phase, len(scripts))
        result = await client.run_scripts(
            scripts,
            deadline_s=self.gate.spec.request.deadline_s,
            slots=batch.slots,
            late=[place for place, (_, script) in enumerate(left) if not script.at_barrier],
            on_first_token=lambda place, ttft_s: self._first_token(key.cell, *left[place], ttft_s),
            hangs=lambda: self._hangs(key, control),
        )
        foreign = foreign_cores(cpu, read_cpu_times(pids)) if pids else None
        gpus_after = self._gpu_states(key)
        await self._check_alive(result, control)
        row = BatchRow(
            cell=key.cell.id,
            repeat=key.repeat,
            attempt=key.attempt,
            phase=key.phase,
            requests=sum(sent) + sum(row.requests for row in ended.values()),
            wall_s=result.wall_s,
            delivered_concurrency=result.delivered_concurrency,
            health=result.health,
            counters=delta(before, await self._counters(control)),
            probe_ms=probe,
            foreign_cores=foreign,
            steady_start_s=result.steady_start_s,
            steady_end_s=result.steady_end_s,
            gpus_before=gpus_before,
            gpus_after=gpus_after,
        )
        self.writer.append_batch(row)
        self.progress.batch_done(row)

    def _gpu_states(self, key: BatchKey) -> list[GpuState]:
        return self.gpu_states() if self.gpu_states is not None and key.phase == "measure" else []

    def _first_token(self, cell: Cell, number: int, script: Script, ttft_s: float) -> None:
        if script.on_first_token is not None:
            script.on_first_token()
        self.progress.first_token(cell, number, ttft_s)

    def _client_script(self, key: BatchKey, number: int, script: Script, sent: list[int]) -> load.Script:
        """The workload's script for the client: requests become bytes, results become rows on disk at once."""
        first = _encoded(script.first) if script.first is not None else None

        async def run(send_bytes: load.Send) -> None:
            async def send(planned: PlannedRequest) -> RequestResult:
                known = first is not None and planned is script.first
                request = first if known and first is not None else _encoded(planned)

                def keep_refused(result: RequestResult) -> None:
                    row = self._row(key, number, sent[number], planned, result)
                    self.writer.append_request(msgspec.structs.replace(row, phase="refused"))

                pacing = self.endpoint.pacing
                result = await paced(pacing, planned.body, lambda: send_bytes(request), keep_refused)
                self.writer.append_request(self._row(key, number, sent[number], planned, result))
                sent[number] += 1
                self.progress.request_done(key.cell, planned.index, result)
                return result

            answer = await script.run(send)
            if answer is not None or self.gate.spec.declared.independent:
                row = ScriptRow(
                    cell=key.cell.id, repeat=key.repeat, attempt=key.attempt, phase=key.phase, script=number,
                    key=script.key, requests=sent[number], answer=answer,
                )  # fmt: skip
                self.writer.append_script(row)

        return run

    async def _scripts(self, key: BatchKey, control: ControlClient) -> Batch:
        try:
            return await self.workload.batch(key.cell, key.repeat, key.attempt, key.phase, control)
        except TargetDiedError:  # it says why by itself
            raise
        except TargetError as error:
            await self._raise_if_dead(control)
            raise TargetDiedError(f"the serve stopped answering while prompts were built: {error}") from error

    def _row(self, key: BatchKey, script: int, turn: int, planned: PlannedRequest, result: RequestResult) -> RequestRow:
        return RequestRow(
            cell=key.cell.id,
            repeat=key.repeat,
            attempt=key.attempt,
            index=planned.index,
            phase=key.phase,
            result=result,
            expect=planned.expect,
            answer=self.workload.read_answer(planned, result),
            script=script,
            turn=turn,
        )

    async def _counters(self, control: ControlClient) -> dict[str, float]:
        names = self.endpoint.dialect.metrics
        text = await control.metrics_text() if names else None
        if text is None:
            return {}
        samples = await asyncio.to_thread(parse_counters, text)
        return {canonical: samples[name] for name, canonical in names.items() if name in samples}

    async def _check_alive(self, batch: BatchResult, control: ControlClient) -> None:
        """A failed request may mean a dead serve: then the run ends here, and the batch does not count."""
        if any(_may_be_dead(result.error) for result in batch.results):
            await self._raise_if_dead(control, watched=self.target.pid is not None)

    async def _hangs(self, key: BatchKey, control: ControlClient) -> str | None:
        """Why the serve is given up: it has no token for a plain question either. A slow one answers that."""
        limit = min(max(_PROBE_SHARE * self.gate.spec.request.deadline_s, _PROBE_LEAST_S), _PROBE_MOST_S)
        self.progress.note(f"no stream says anything: asking the serve for one token, for at most {limit:g} s")
        try:
            async with asyncio.timeout(limit):
                await first_token(control, self.endpoint.model)
        except TimeoutError:
            why = f"gives no token within {limit:g} s"
        except TargetError as error:
            why = str(error)
        else:
            return None
        health = "though /health answers" if await control.health() else "and /health does not answer"
        return (
            f"unresponsive: a request of {key.cell.id}, repeat {key.repeat + 1}, reached its deadline, no other stream "
            f"moved, and a new question {why}, {health}"
        )

    async def _raise_if_dead(self, control: ControlClient, *, watched: bool = False) -> None:
        """Raises TargetDiedError unless the serve is well. ``watched``: one that answers /health is given time to end, for
        an engine that failed a request may still be on its way down."""
        waited = 0.0
        while self.target.alive() and waited < _DEATH_GRACE_S:
            if not watched and await control.health():
                return
            await asyncio.sleep(0.2)
            waited += 0.2
        if self.target.alive() and await control.health():
            return
        raise TargetDiedError(self.target.death_note() or "the serve no longer answers /health")


def _may_be_dead(error: str | None) -> bool:
    """Whether a request failed as those of a dead engine do: behind its API server they end with a status or a reason."""
    return error is not None and (error in _SIGNS_OF_DEATH or error.startswith("http_5"))


def _encoded(planned: PlannedRequest) -> HttpRequest:
    streamed = planned.body.get("stream") is True
    return HttpRequest(path=planned.path, body=msgspec.json.encode(planned.body), streamed=streamed)
