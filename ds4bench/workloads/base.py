"""What a workload is."""

from __future__ import annotations

from typing import Protocol

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.targets.base import Endpoint


class Workload(Protocol):
    """Plans cells, builds requests, reads answers."""

    def cells(self) -> list[Cell]:
        """The cells of the matrix, in the order of measurement."""
        ...

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """Learn what the requests depend on, for example how the served tokenizer counts."""
        ...

    async def requests(
        self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient
    ) -> list[PlannedRequest]:
        """The requests of one batch, built before its clock starts. Raises WorkloadError when they cannot be built."""
        ...

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """What the reply says; None when there is nothing to read."""
        ...
