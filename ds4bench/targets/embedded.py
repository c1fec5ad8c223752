"""The embedded engine, launched for one run and stopped with it."""

from __future__ import annotations

import asyncio
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
from ds4bench.targets.launched import POLL_S, ServeProcess
from ds4bench.targets.ready import first_token

_COMMAND = (sys.executable, "-m", "ds4bench.embedded")
_GIVEN = ("--host", "127.0.0.1", "--port", "0", "--die-with-parent", "--nice", "5")
_DEADLINE_S = 120.0
_GPU_DEADLINE_S = 600.0
"""On a GPU the engine compiles its kernels at the start, minutes if none are cached."""


class EmbeddedTarget:
    """``python -m ds4bench.embedded`` in a process group of its own, its output in ``log_path``.

    ``command`` replaces the interpreter and module, for tests. ``ready_deadline_s`` bounds launch to first
    token (None: 120, with ``--device`` in ``args`` 600), ``grace_s`` SIGTERM to SIGKILL.
    """

    name = "embedded"

    def __init__(
        self,
        log_path: Path,
        args: Sequence[str] = (),
        *,
        hardware: Mapping[str, Any] | None = None,
        command: Sequence[str] = _COMMAND,
        environment: Mapping[str, str] | None = None,
        ready_deadline_s: float | None = None,
        grace_s: float = 10.0,
    ) -> None:
        self.log_path = log_path
        self._args = tuple(args)
        self._hardware = hardware
        self._command = tuple(command)
        self._environment = environment
        if ready_deadline_s is None:
            on_gpu = any(arg.partition("=")[0] == "--device" for arg in args)
            ready_deadline_s = _GPU_DEADLINE_S if on_gpu else _DEADLINE_S
        self._ready_deadline_s = ready_deadline_s
        self._grace_s = grace_s
        self._process: ServeProcess | None = None

    @property
    def pid(self) -> int | None:
        """Process id, which is also the process group's; None before the start."""
        return self._process.pid if self._process else None

    async def start(self, report: Report) -> Endpoint:
        """Launch and wait for a token. Raises TargetError, with the log's last lines, when none comes in time."""
        if self._process is not None:
            raise TargetError("this embedded target was started before; make a new one")
        deadline = time.monotonic() + self._ready_deadline_s
        report("starting the embedded engine")
        with tempfile.TemporaryDirectory(prefix="ds4bench-") as folder:
            port_file = Path(folder) / "port"
            command = [*self._command, *_GIVEN, "--port-file", str(port_file), *self._args]
            process = ServeProcess(
                command, self.log_path, name="the embedded engine", environment=self._environment,
                grace_s=self._grace_s, guarded=False,
            )  # fmt: skip
            process.launch()
            self._process = process
            try:
                port = await self._port(process, port_file, deadline)
                report("waiting for the first token")
                return await self._endpoint(process, f"http://127.0.0.1:{port}", deadline)
            except BaseException:
                await self.stop()
                raise

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.alive()

    def death_note(self) -> str | None:
        """Exit code or signal and the log's last lines; None before the start, while it runs, and if we stopped it."""
        return self._process.death_note() if self._process else None

    async def stop(self) -> None:
        """End the whole process group: SIGTERM, then SIGKILL after the grace period."""
        if self._process is not None:
            await self._process.stop()

    async def _port(self, process: ServeProcess, port_file: Path, deadline: float) -> int:
        while True:
            if port_file.exists() and (text := port_file.read_text().strip()).isdigit():
                return int(text)
            process.check_running()
            if time.monotonic() > deadline:
                raise TargetError(process.too_late("it did not open its port", self._ready_deadline_s))
            await asyncio.sleep(POLL_S)

    async def _endpoint(self, process: ServeProcess, base_url: str, deadline: float) -> Endpoint:
        control = ControlClient(base_url)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                found = await identify(control, hardware=self._hardware)
                await first_token(control, found.model)
        except TimeoutError:
            raise TargetError(process.too_late("no token came back", self._ready_deadline_s)) from None
        except TargetError:
            await process.check_running_soon()
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
