"""A serve of the embedded engine with faults of its own, of a proxy in front of it, of both, or of neither."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ds4bench.errors import TargetError
from ds4bench.run_session import TargetOptions
from ds4bench.targets.base import Endpoint, Report, Target
from ds4bench.targets.launched import POLL_S, ServeProcess
from ds4bench.trust.expectations import Row

_PROXY_DEADLINE_S = 20.0


class ProxiedTarget:
    """Another target, asked through a proxy. The serve's identity is its own; only replies come through the proxy."""

    name = "embedded"

    def __init__(self, inner: Target, faults: Sequence[str], log_path: Path) -> None:
        self._inner = inner
        self._faults = tuple(faults)
        self._log_path = log_path
        self._proxy: ServeProcess | None = None

    @property
    def pid(self) -> int | None:
        """The serve's process."""
        return self._inner.pid

    async def start(self, report: Report) -> Endpoint:
        """Start the serve, then the proxy. Raises TargetError."""
        endpoint = await self._inner.start(report)
        with tempfile.TemporaryDirectory(prefix="ds4bench-") as folder:
            port_file = Path(folder) / "port"
            command = [sys.executable, "-m", "ds4bench.trust.proxy", "--upstream", endpoint.base_url]
            command += ["--port-file", str(port_file), *(f"--fault={fault}" for fault in self._faults)]
            self._proxy = ServeProcess(command, self._log_path, name="the fault proxy")
            self._proxy.launch()
            port = await self._port(self._proxy, port_file)
        return replace(endpoint, base_url=f"http://127.0.0.1:{port}")

    def alive(self) -> bool:
        """Whether serve and proxy both run."""
        return self._inner.alive() and self._proxy is not None and self._proxy.alive()

    def death_note(self) -> str | None:
        """Whose process ended, and its last words."""
        return self._inner.death_note() or (self._proxy.death_note() if self._proxy else None)

    async def stop(self) -> None:
        """End both."""
        if self._proxy is not None:
            await self._proxy.stop()
        await self._inner.stop()

    async def _port(self, proxy: ServeProcess, port_file: Path) -> int:
        deadline = time.monotonic() + _PROXY_DEADLINE_S
        while not port_file.exists():
            proxy.check_running()
            if time.monotonic() > deadline:
                raise TargetError(proxy.too_late("it did not open its port", _PROXY_DEADLINE_S))
            await asyncio.sleep(POLL_S)
        return int(port_file.read_text())


@dataclass(frozen=True)
class BrokenServe(TargetOptions):
    """The embedded engine as a row wants it."""

    proxy: tuple[str, ...] | None = None

    @classmethod
    def of(cls, row: Row, *, healthy: bool = False, more_args: Sequence[str] = ()) -> BrokenServe:
        """The row's serve, or the healthy one that it is compared with, with more flags than the row's."""
        flags = [] if healthy else [f"--fault={fault}" for fault in row.engine]
        proxy = None if row.proxy is None else () if healthy else tuple(row.proxy)
        return cls("embedded", serve_args=(*row.serve_args, *more_args, *flags), proxy=proxy)

    def make(self, log_path: Path) -> Target:
        """The target, not started."""
        inner = super().make(log_path)
        if self.proxy is None:
            return inner
        return ProxiedTarget(inner, self.proxy, log_path.with_name("proxy.log"))

    def described(self) -> dict[str, Any]:
        """What a run keeps of it."""
        return {**super().described(), "proxy": None if self.proxy is None else list(self.proxy)}
