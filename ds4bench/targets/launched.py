"""A serve's process: launched in a group of its own, watched, and always ended with everything that it started.

``launched`` knows nothing of engines. ``EmbeddedTarget`` and ``EngineTarget`` say what to run and when it is ready.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ds4bench import env
from ds4bench.errors import TargetError
from ds4bench.targets import process_group
from ds4bench.targets.gpu import gpu_processes
from ds4bench.targets.log_reading import last_lines, likely_cause

POLL_S = 0.05
_LAST_LINES = 8
_REAP_S = 1.0
"""A refused connection is seen before the process that refused it can be reaped."""
_RUNNING: set[tuple[int, str]] = set()
"""(process group, mark) of every launch that was not ended yet."""


def launched_here(pid: int) -> bool:
    """Whether the process is of a serve that this ds4bench has launched and not ended; there may be two (``ds4bench ci``)."""
    return any(process_group.started(pid, group, mark) for group, mark in _RUNNING)


class ServeProcess:
    """One serve in its own session, its output in ``log_path``.

    ``name`` stands in messages ("the embedded engine"). ``grace_s`` is the time from SIGTERM to SIGKILL. ``guarded``: a
    second process ends the serve if this one is killed; not needed by a serve that watches its parent itself.
    ``shown`` is the command as a person may see it, the first line of the log. ``memory_advice``: what helps this serve when
    GPU memory runs out.
    ``lifeline`` is written to the process's standard input, which then stays open: closing it is the first request to stop.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: Path,
        *,
        name: str,
        environment: Mapping[str, str] | None = None,
        grace_s: float = 10.0,
        guarded: bool = True,
        lifeline: bytes | None = None,
        shown: str | None = None,
        memory_advice: str | None = None,
    ) -> None:
        self.command = tuple(command)
        self.log_path = log_path
        self.name = name
        self._environment = dict(environment or {})
        self._grace_s = grace_s
        self._guarded = guarded
        self._lifeline = lifeline
        self._shown = shown
        self._memory_advice = memory_advice
        self._mark = secrets.token_hex(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._on_gpu_before: dict[int, str] = {}
        self._ours_on_gpu: set[int] = set()
        self._stopped_by_us = False
        self.log_start = 0  # bytes of the log that an earlier launch wrote

    @property
    def pid(self) -> int | None:
        """Process id, which is also the process group's; None before the start."""
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start the process. Raises TargetError when it cannot be run, or was started before."""
        if self._process is not None:
            raise TargetError(f"{self.name} was started before; make a new target")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self._on_gpu_before = gpu_processes()
        # The last words before a death must reach the log: unbuffered.
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", **self._environment, process_group.MARK: self._mark}
        with self.log_path.open("ab") as log:
            if self._shown is not None:
                log.write(f"$ {self._shown}\n".encode())
                log.flush()
            self.log_start = log.tell()
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL if self._lifeline is None else subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as error:
                raise TargetError(f"cannot launch {self.name}: {error}") from error
        _RUNNING.add((self._process.pid, self._mark))
        self._hold_lifeline(self._process)
        atexit.register(self.kill)
        if self._guarded:
            self._guard = _start_guard(self._process.pid, self._mark, self._grace_s)

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def death_note(self) -> str | None:
        """Exit code or signal and last words; None before the start, while it runs, and if we stopped it."""
        if self._process is None or self._stopped_by_us:
            return None
        code = self._process.poll()
        return None if code is None else f"{self.name} {_ending(code)}; {self.last_words()}"

    def check_running(self) -> None:
        """Raises TargetError with the death note if the process has ended before it was ready."""
        note = self.death_note()
        if note is not None:
            raise TargetError(f"{note} (before a token came back; whole log: {self.log_path})")

    async def check_running_soon(self) -> None:
        """The same a moment later, for a caller whose connection was just lost."""
        deadline = time.monotonic() + _REAP_S
        while self.alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(POLL_S)
        self.check_running()

    def too_late(self, what: str, limit_s: float) -> str:
        """The sentence for a serve that is not ready in time."""
        limit = f"{limit_s:g} s"
        return f"{self.name} is not ready after {limit}: {what}; {self.last_words()} (log: {self.log_path})"

    def last_words(self) -> str:
        """The known cause if the log names one, and its last lines."""
        cause = likely_cause(self.log_path, self.log_start, self._memory_advice)
        lines = last_lines(self.log_path, _LAST_LINES, self.log_start)
        words = "its last words: " + " | ".join(lines) if lines else "it logged nothing"
        return f"{cause}; {words}" if cause else words

    async def stop(self) -> list[str]:
        """End everything that the launch started: SIGTERM, then SIGKILL after the grace period.

        Returns one line for each process that survived even that, or that still holds a GPU; empty when all is clean.
        """
        await self.end()
        return self.survivors()

    async def end(self) -> None:
        """``stop`` without a look at what is left."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._stopped_by_us = True
        self._ours_on_gpu |= set(gpu_processes()) & {process.pid, *process_group.members(process.pid, self._mark)}
        if self._cut_lifeline():
            await self._ended(self._grace_s)
        self._signal_all(process, signal.SIGTERM)
        await self._gone(self._grace_s)
        self.kill()

    def kill(self) -> None:
        """SIGKILL what is left, and reap what ends. Also runs at exit, when there is no event loop."""
        atexit.unregister(self.kill)
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._stopped_by_us = True
        self._cut_lifeline()
        self._signal_all(process, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(process_group.REAP_S)
        _RUNNING.discard((process.pid, self._mark))
        self._release_guard()

    def _signal_all(self, process: subprocess.Popen[bytes], number: int) -> None:
        process_group.signal_all(process.pid, self._mark, number, unreaped=process.poll() is None)

    async def _ended(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self.alive() and time.monotonic() < deadline:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(POLL_S)

    async def _gone(self, patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while self._members() and time.monotonic() < deadline:  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(POLL_S)

    def _hold_lifeline(self, process: subprocess.Popen[bytes]) -> None:
        if self._lifeline is None or process.stdin is None:
            return
        with contextlib.suppress(OSError):  # a process that is gone already tells by its exit code
            process.stdin.write(self._lifeline)
            process.stdin.flush()

    def _cut_lifeline(self) -> bool:
        """Close the process's standard input; False when it has none of ours."""
        if self._process is None or self._process.stdin is None:
            return False
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        return True

    def _members(self) -> dict[int, str]:
        assert self._process is not None
        self._process.poll()  # reap
        return process_group.members(self._process.pid, self._mark)

    def logs(self) -> list[tuple[str, Path, int]]:
        """What stands before each line, the log, its first byte of this launch; nothing before the start."""
        return [("", self.log_path, self.log_start)] if self._process is not None else []

    def said(self) -> list[str]:
        """What the watcher of another machine says of processes that it could not end."""
        lines = last_lines(self.log_path, _LAST_LINES, self.log_start)
        return [f"{self.name}: {line}" for line in lines if line.startswith("ds4bench: ") and "survived" in line]

    def survivors(self) -> list[str]:
        """A line for each process of the launch that lives, or still holds a GPU; empty when all is clean."""
        if self._process is None:
            return []
        left = self._members()
        deadline = time.monotonic() + 2.0
        while left and time.monotonic() < deadline:
            time.sleep(POLL_S)
            left = self._members()
        on_gpu = gpu_processes()
        lines = [
            f"process {pid} survived SIGKILL ({env.without_secrets(command)}){_holding(on_gpu, pid)}; end it by hand"
            for pid, command in left.items()
        ]
        new = set(on_gpu) - set(self._on_gpu_before) - set(left)
        for pid in sorted(new):
            whose = "of this serve" if pid in self._ours_on_gpu else "that came while it ran and may not be ours"
            lines.append(
                f"process {pid} {whose} still holds {on_gpu[pid]}: look at it with nvidia-smi; it was not killed"
            )
        return lines

    def _release_guard(self) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        with contextlib.suppress(BrokenPipeError, OSError):
            guard.communicate(b"k", timeout=5)


def _start_guard(group: int, mark: str, grace_s: float) -> subprocess.Popen[bytes]:
    """A process outside the group and the terminal's reach that ends the group when our end of the pipe closes."""
    command = [sys.executable, "-I", "-S", process_group.__file__, str(group), mark, str(grace_s)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _holding(on_gpu: Mapping[int, str], pid: int) -> str:
    return f", holds {on_gpu[pid]}" if pid in on_gpu else ""


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
