"""How late the event loop runs: a task that should wake every few milliseconds and notes by how much it is late."""

from __future__ import annotations

import asyncio
import time

PERIOD_S = 0.005


class Heartbeat:
    """``lags_ms`` grows while the heartbeat beats."""

    def __init__(self) -> None:
        self.lags_ms: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin beating in the running loop."""
        self._task = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Stop beating."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _beat(self) -> None:
        while True:
            due = time.perf_counter() + PERIOD_S
            await asyncio.sleep(PERIOD_S)
            self.lags_ms.append(max(0.0, (time.perf_counter() - due) * 1000))


def percentile(values: list[float], share: float) -> float:
    """Nearest-rank percentile (NIST: ceil(share * n)-th value); 0.0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered), max(1, -int(-share * len(ordered) // 1))) - 1]
