"""What a workload is: for each batch of a cell the scripts that run side by side."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.targets.base import Endpoint

Send = Callable[[PlannedRequest], Awaitable[RequestResult]]
"""Sends one request now and waits for its end. A failed request is a failed result: a script then ends, it never retries."""


@dataclass(frozen=True)
class Script:
    """One client of a batch: a single request, a conversation, a tool loop.

    ``run`` sends requests one after the other and may return what it makes of all replies together (scores, a trace as
    ``detail``), which is stored as a ``ScriptRow``. ``key`` names the item, the same in every run. ``first`` is the first
    request where it is known beforehand: its body is then encoded before the clock starts.
    ``on_first_token`` is called when the first token of a request of this script arrives, so that another script can wait for
    it; one that waits before its first request is not ``at_barrier`` and so not late.
    """

    key: str
    run: Callable[[Send], Awaitable[Answer | None]]
    first: PlannedRequest | None = None
    on_first_token: Callable[[], None] | None = None
    at_barrier: bool = True


@dataclass(frozen=True)
class Batch:
    """The scripts of one barrier. ``slots`` None: all start at once; else a closed loop with so many in flight."""

    scripts: Sequence[Script]
    slots: int | None = None


class Workload(Protocol):
    """Builds requests and reads answers. The cells are the gate's: ``spec.matrix.cells()``."""

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """Learn what the requests depend on, for example how the served tokenizer counts."""
        ...

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """The scripts of one batch, built before its clock starts. Raises WorkloadError when they cannot be built.

        A warm-up batch without scripts is left out.
        """
        ...

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """What a single reply says; None when there is nothing to read, or when the script itself reads it."""
        ...


def one_request(planned: PlannedRequest) -> Script:
    """The script that sends one request; ``read_answer`` reads the reply."""

    async def run(send: Send) -> Answer | None:
        await send(planned)
        return None

    return Script(key=f"{planned.cell}/{planned.index}", run=run, first=planned)
