"""Worker processes that compile. A configuration that crashes or hangs the compiler costs its worker, not the run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import IO

from ds4_kernels.compile_gate.binary import Measurement
from ds4_kernels.compile_gate.discover import Task
from ds4_kernels.compile_gate.measure import measure

_LOG_LIMIT = 1 << 22
_TAIL = 2000
_LINES = 10
_LINE_LIMIT = 400
_POLL_SECONDS = 1.0


def compile_all(tasks: Sequence[Task], jobs: int, limit_s: float) -> Iterator[tuple[int, Measurement]]:
    """Compile every task in ``jobs`` processes; yields (index, measurement) in order of completion.

    A task that takes longer than ``limit_s`` seconds, or ends its process, yields a measurement with ``error``.
    """
    pending = deque(range(len(tasks)))
    workers: list[_Worker] = []
    try:
        while pending and len(workers) < jobs:
            _hire(tasks, workers).give(pending.popleft(), limit_s)
        while workers:
            for worker in _finished(workers):
                index, measured = worker.take()
                if pending and worker.alive:
                    worker.give(pending.popleft(), limit_s)
                else:
                    worker.stop()
                    workers.remove(worker)
                    if pending:
                        _hire(tasks, workers).give(pending.popleft(), limit_s)
                yield index, measured
    finally:
        for worker in workers:
            worker.stop()


def _hire(tasks: Sequence[Task], workers: list[_Worker]) -> _Worker:
    workers.append(_Worker(tasks, workers))
    return workers[-1]


def _finished(workers: list[_Worker]) -> list[_Worker]:
    """Workers that answered, died or ran out of time (perhaps none: the caller asks again)."""
    ready = wait([worker.pipe for worker in workers], timeout=_POLL_SECONDS)
    return [worker for worker in workers if worker.pipe in ready or worker.late]


class _Worker:
    """One forked process: it inherits the tasks (a kernel cannot be pickled) and is sent their indices."""

    def __init__(self, tasks: Sequence[Task], others: Sequence[_Worker]) -> None:
        context = multiprocessing.get_context("fork")
        self.pipe, inner = context.Pipe()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        # Copies of the other pipes in the child would keep those workers waiting after this process is killed.
        inherited = [self.pipe, *(other.pipe for other in others)]
        self._process = context.Process(target=_serve, args=(tasks, inner, inherited, self._log), daemon=True)
        self._process.start()
        inner.close()
        self._index = 0
        self._deadline = 0.0
        self._limit_s = 0.0
        self.alive = True

    @property
    def late(self) -> bool:
        """Whether the task in hand has used up its time."""
        return time.monotonic() > self._deadline

    def give(self, index: int, limit_s: float) -> None:
        """Start on a task. A worker that died meanwhile shows in ``take``."""
        self._index = index
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(index)

    def take(self) -> tuple[int, Measurement]:
        """Result of the task in hand; ``alive`` turns false when there can be no further one."""
        try:
            if self.pipe.poll():
                return self._index, Measurement.from_json(self.pipe.recv())
            error = f"the compiler did not finish within {self._limit_s:g} s"
        except (EOFError, ConnectionResetError):
            self._process.join(timeout=5)
            error = f"the compiler's process died ({_exit_reason(self._process.exitcode)}): {_diagnostics(self._log)}"
        self.alive = False
        return self._index, Measurement(error=error.rstrip(": "))

    def stop(self) -> None:
        """End the process and all that it started (ptxas)."""
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):  # it has gone, or has not yet made its own process group
            os.killpg(pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self.pipe.close()
        self._log.close()


def _serve(tasks: Sequence[Task], pipe: Connection, inherited: Sequence[Connection], log: IO[bytes]) -> None:
    os.setpgid(0, 0)
    for connection in inherited:
        connection.close()
    # The compiler prints its diagnostics to the process's own output: kept for the message of a failure.
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    while True:
        try:
            index: int = pipe.recv()
        except EOFError:
            return
        os.ftruncate(log.fileno(), 0)
        os.lseek(log.fileno(), 0, os.SEEK_SET)
        measured = measure(tasks[index].case, tasks[index].arch).as_json()
        printed = _diagnostics(log)
        if measured["error"] and printed:
            measured["error"] += f"\ncompiler output: {printed}"
        pipe.send(measured)


def _diagnostics(log: IO[bytes]) -> str:
    """The compiler's own error lines (MLIR prints whole modules around them), else the end of what it printed."""
    text = os.pread(log.fileno(), _LOG_LIMIT, 0).decode(errors="replace").strip()
    errors = [
        line[:_LINE_LIMIT] for line in text.splitlines() if re.search(r"\berror\b|\bfatal\b|Assertion", line, re.I)
    ]
    return "\n".join(errors[:_LINES]) or text[-_TAIL:]


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
