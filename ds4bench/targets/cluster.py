"""The processes of a serve on several machines: started in order, watched together, always ended together."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from ds4bench.errors import TargetError
from ds4bench.targets.cluster_plan import ClusterPlan, NodeCommand
from ds4bench.targets.dialect import dialect_of
from ds4bench.targets.launched import ServeProcess
from ds4bench.targets.node_run import Done, run_to_end, watcher, watcher_text

_POLL_S = 0.1
_TOLD_S = 2.0
"""A lost connection is seen before the node's watcher has ended what is left and said so over the network."""
_JOIN_PAUSE_S = 1.0
_JOIN_TRY_S = 60.0
_MARGIN_S = 10.0
"""What the way to a node and back may take on top of its watcher's own patience."""


class ServeCluster:
    """One serve over several machines, with the life of a ``ServeProcess``. A node that ends takes the others with it.

    ``log_path`` is the answering serve's log; the others' lie beside it, their names with the node's.
    """

    def __init__(self, plan: ClusterPlan, log_path: Path, *, engine: str, grace_s: float) -> None:
        self.plan = plan
        self.log_path = log_path
        self._grace_s = grace_s
        self._members = [self._process(member, self._beside(member), engine) for member in plan.members]
        self._serve = self._process(plan.serve, log_path, engine)
        self._death: str | None = None
        self._stopping = False
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of what leads to the answering serve; None before the start."""
        return self._serve.pid

    def logs(self) -> list[tuple[str, Path, int]]:
        """What is written by now: node's name before each line, file, first byte of this launch."""
        named = [*zip(self.plan.members, self._members, strict=True), (self.plan.serve, self._serve)]
        return [(f"[{c.node.name}] ", p.log_path, p.log_start) for c, p in named if p.pid is not None]

    async def start(self, report: Callable[[str], None]) -> None:
        """Start all nodes; the serve last, once every node is in. Raises TargetError when one ends or does not join."""
        for member in self._members:
            member.launch()
        self._supervisor = asyncio.create_task(self._supervise())
        if self.plan.joined is not None:
            report("waiting until every node has joined")
            await self._wait_joined(self.plan.joined)
        self._serve.launch()

    def alive(self) -> bool:
        """Whether every node's processes run."""
        return self._death is None and self._serve.alive() and all(member.alive() for member in self._members)

    def death_note(self) -> str | None:
        """What ended first and its last words; None while all run, and if we stopped them."""
        if self._death is None and not self._stopping:
            self._death = next(filter(None, (p.death_note() for p in self._launched())), None)
        return self._death

    def check_running(self) -> None:
        """Raises TargetError with the death note if a node has ended before the serve was ready."""
        note = self.death_note()
        if note is not None:
            raise TargetError(f"{note} (before a token came back; logs: {self.log_path.parent})")

    async def check_running_soon(self) -> None:
        """The same a moment later, for a caller whose connection was just lost."""
        deadline = time.monotonic() + _TOLD_S
        while self.death_note() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(_POLL_S)
        self.check_running()

    def too_late(self, what: str, limit_s: float) -> str:
        """The sentence for a serve that is not ready in time."""
        return f"{self._serve.too_late(what, limit_s)}; {self._last_words()}"

    async def stop(self) -> list[str]:
        """End every node: the serve, then the rest. Returns a line for each process that survived."""
        self.death_note()  # before our own stop looks like one
        self._stopping = True
        if self._supervisor is not None and self._supervisor is not asyncio.current_task():
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        return await self._end_all()

    async def _end_all(self) -> list[str]:
        await self._serve.end()
        await asyncio.gather(*(member.end() for member in self._members))
        lines = {line: None for process in self._launched() for line in (*process.survivors(), *process.said())}
        return list(lines)

    async def _supervise(self) -> None:
        """When one node ends, the others hang or fail later: end them, so that requests in flight fail at once."""
        while self.death_note() is None:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(_POLL_S)
        await self._end_all()

    async def _wait_joined(self, command: NodeCommand) -> None:
        words = command.words(watcher(self.plan.python_of(command.node), 2.0))
        deadline = time.monotonic() + self.plan.cluster.join_deadline_s
        while True:
            done = await self._unless_one_ends(run_to_end(words, _JOIN_TRY_S, text=watcher_text()))
            if done.code == 0:
                return
            if time.monotonic() > deadline:
                limit = self.plan.cluster.join_deadline_s
                raise TargetError(f"not every node joined within {limit:g} s: {done.last_line()}; {self._last_words()}")
            await asyncio.sleep(_JOIN_PAUSE_S)

    async def _unless_one_ends(self, asking: Coroutine[Any, Any, Done]) -> Done:
        """What was asked for; raises TargetError as soon as a node has ended."""
        assert self._supervisor is not None
        task = asyncio.create_task(asking)
        try:
            await asyncio.wait({task, self._supervisor}, return_when=asyncio.FIRST_COMPLETED)
            self.check_running()
            return await task
        finally:
            task.cancel()
            await asyncio.wait({task})

    def _last_words(self) -> str:
        return "; ".join(f"{process.name}: {process.last_words()}" for process in self._members)

    def _launched(self) -> list[ServeProcess]:
        return [process for process in (*self._members, self._serve) if process.pid is not None]

    def _beside(self, command: NodeCommand) -> Path:
        return self.log_path.with_name(f"{self.log_path.stem}-{command.node.name}-{command.what}{self.log_path.suffix}")

    def _process(self, command: NodeCommand, log_path: Path, engine: str) -> ServeProcess:
        return ServeProcess(
            command.words(watcher(self.plan.python_of(command.node), self._grace_s)),
            log_path,
            name=f"the {engine} {command.title}",
            grace_s=self._grace_s + _MARGIN_S,
            lifeline=watcher_text(),
            shown=command.shell_text(),
            memory_advice=dialect_of(engine).memory_advice,
        )
