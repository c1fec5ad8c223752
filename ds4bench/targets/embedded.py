"""The embedded reference engine, launched in a process group of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.identify import identify, token_comes_back

START_DEADLINE_S = 120.0
STOP_GRACE_S = 10.0
_LOG_LINES = 5
MODULE = "ds4bench.embedded"


class EmbeddedTarget:
    """``python -m ds4bench.embedded`` on a free port of the loopback interface, its output in ``log``."""

    name = "embedded"

    def __init__(
        self, log: Path, arguments: Sequence[str] = (), *, hardware: dict[str, Any], module: str = MODULE
    ) -> None:
        self._log = log
        self._arguments = list(arguments)
        self._hardware = hardware
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, report: Report) -> Endpoint:
        """See ``Target``."""
        report("starting the embedded engine")
        with tempfile.TemporaryDirectory(prefix="ds4bench-") as folder:
            port_file = Path(folder) / "port"
            self._launch(port_file)
            port = await self._port(port_file)
        control = ControlClient(f"http://127.0.0.1:{port}")
        try:
            endpoint = await identify(control, None, local=True, hardware=self._hardware, headers={})
            await token_comes_back(control, endpoint)
        finally:
            await control.close()
        return endpoint

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def death_note(self) -> str | None:
        """Exit code or signal, and the last lines of the log."""
        if self._process is None or self._process.poll() is None:
            return None
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = self._tail()
        return f"the embedded engine {how}" + (f"; its last lines: {tail}" if tail else "")

    async def stop(self) -> None:
        """See ``Target``: SIGTERM to the group, SIGKILL after a grace period."""
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait)
        atexit.unregister(self._kill)

    def _launch(self, port_file: Path) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", self._module, "--host", "127.0.0.1", "--port", "0"]
        command += ["--port-file", str(port_file), "--die-with-parent", *self._arguments]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        atexit.register(self._kill)

    async def _port(self, port_file: Path) -> int:
        async def wait() -> int:
            while not port_file.exists():
                if not self.alive():
                    raise TargetError(f"{self.death_note()} (log: {self._log})")
                await asyncio.sleep(0.05)
            return int(port_file.read_text())

        try:
            return await asyncio.wait_for(wait(), START_DEADLINE_S)
        except TimeoutError:
            await self.stop()
            message = f"the embedded engine did not start within {START_DEADLINE_S:g} s; its last lines: {self._tail()}"
            raise TargetError(message) from None

    def _tail(self) -> str:
        try:
            lines = self._log.read_text(errors="replace").strip().splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in lines[-_LOG_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        """Last resort at interpreter exit."""
        if self.alive():
            self._signal(signal.SIGKILL)
