"""The embedded engine, launched for one run and stopped with it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.identify import identify
from ds4bench.targets.ready import first_token

_COMMAND = (sys.executable, "-m", "ds4bench.embedded")
_POLL_S = 0.05
_LAST_LINES = 8


class EmbeddedTarget:
    """``python -m ds4bench.embedded`` in a process group of its own, its output in ``log_path``.

    ``command`` replaces the interpreter and module, for tests. ``ready_deadline_s`` bounds launch to first
    token, ``grace_s`` SIGTERM to SIGKILL.
    """

    name = "embedded"

    def __init__(
        self,
        log_path: Path,
        args: Sequence[str] = (),
        *,
        hardware: Mapping[str, Any] | None = None,
        command: Sequence[str] = _COMMAND,
        ready_deadline_s: float = 120.0,
        grace_s: float = 10.0,
    ) -> None:
        self.log_path = log_path
        self._args = tuple(args)
        self._hardware = hardware
        self._command = tuple(command)
        self._ready_deadline_s = ready_deadline_s
        self._grace_s = grace_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped_by_us = False

    @property
    def pid(self) -> int | None:
        """Process id, which is also the process group's; None before the start."""
        return self._process.pid if self._process else None

    async def start(self, report: Report) -> Endpoint:
        """Launch and wait for a token. Raises TargetError, with the log's last lines, when none comes in time."""
        deadline = time.monotonic() + self._ready_deadline_s
        report("starting the embedded engine")
        with tempfile.TemporaryDirectory(prefix="ds4bench-") as folder:
            port_file = Path(folder) / "port"
            self._launch(port_file)
            try:
                port = await self._port(port_file, deadline)
                report("waiting for the first token")
                return await self._endpoint(f"http://127.0.0.1:{port}", deadline)
            except BaseException:
                await self.stop()
                raise

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def death_note(self) -> str | None:
        """Exit code or signal and the log's last lines; None before the start, while it runs, and if we stopped it."""
        if self._process is None or self._stopped_by_us:
            return None
        code = self._process.poll()
        return None if code is None else f"the embedded engine {_ending(code)}; {self._last_words()}"

    async def stop(self) -> None:
        """End the whole process group: SIGTERM, then SIGKILL after the grace period."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._stopped_by_us = True
            _signal_group(process.pid, signal.SIGTERM)
            deadline = time.monotonic() + self._grace_s
            while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process has no event
                await asyncio.sleep(_POLL_S)
        self._kill()

    def _launch(self, port_file: Path) -> None:
        if self._process is not None:
            raise TargetError("this embedded target was started before; make a new one")
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        given = [
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--port-file",
            str(port_file),
            "--die-with-parent",
            "--nice",
            "5",
        ]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}  # the last words before a death must reach the log
        with self.log_path.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    [*self._command, *given, *self._args],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=environment,
                )
            except OSError as error:
                raise TargetError(f"cannot launch the embedded engine: {error}") from error
        atexit.register(self._kill)

    def _kill(self) -> None:
        """SIGKILL what is left of the group, and reap. Also runs at exit, when there is no event loop."""
        atexit.unregister(self._kill)
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._stopped_by_us = True
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()

    async def _port(self, port_file: Path, deadline: float) -> int:
        while True:
            if port_file.exists() and (text := port_file.read_text().strip()).isdigit():
                return int(text)
            self._check_running()
            if time.monotonic() > deadline:
                raise TargetError(self._too_late("it did not open its port"))
            await asyncio.sleep(_POLL_S)

    async def _endpoint(self, base_url: str, deadline: float) -> Endpoint:
        control = ControlClient(base_url)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                found = await identify(control, hardware=self._hardware)
                await first_token(control, found.model)
        except TimeoutError:
            raise TargetError(self._too_late("no token came back")) from None
        except TargetError:
            await asyncio.sleep(_POLL_S)  # a refused connection is seen before the process can be reaped
            self._check_running()
            raise
        finally:
            await control.close()
        return Endpoint(
            base_url=base_url,
            model=found.model,
            dialect=found.dialect,
            fingerprint=found.fingerprint,
            max_model_len=found.max_model_len,
        )

    def _check_running(self) -> None:
        note = self.death_note()
        if note is not None:
            raise TargetError(f"{note} (before a token came back; whole log: {self.log_path})")

    def _too_late(self, what: str) -> str:
        limit = f"{self._ready_deadline_s:g} s"
        return f"the embedded engine is not ready after {limit}: {what}; {self._last_words()} (log: {self.log_path})"

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
            if lines:
                return "its last words: " + " | ".join(line.strip() for line in lines)
        return "it logged nothing"


def _signal_group(pgid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
