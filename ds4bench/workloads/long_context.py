"""Cold long prompts with three codes to find: prompt length x concurrency."""

from __future__ import annotations

import re

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.long_context import LongContextMatrix
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, one_request
from ds4bench.workloads.filler import load_filler
from ds4bench.workloads.long_prompts import LongPrompts

CODES = 3


class LongContext:
    """The workload of the long-context gate."""

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.matrix, LongContextMatrix)
        self._spec = spec
        self._matrix = spec.matrix
        self._prompts = LongPrompts(spec, run_id, load_filler(), CODES)

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError when the longest prompt does not fit the serve."""
        await self._prompts.prepare(endpoint, control, max(self._matrix.prompt_tokens), self._spec.request.max_tokens)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        return Batch([one_request(p) for p in await self.requests(cell, repeat, attempt, phase, control)])

    async def requests(
        self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient
    ) -> list[PlannedRequest]:
        """The requests of a batch. A warm-up sends what the gate says: by default one request."""
        warmup = self._spec.warmup.requests_per_cell
        count = cell.concurrency if phase == "measure" or warmup == "concurrency" else warmup
        tokens = int(cell.params["prompt_tokens"])
        names = [f"{phase} {repeat} {attempt} {index}" for index in range(count)]
        return [await self._prompts.request(cell, name, index, tokens) for index, name in enumerate(names)]

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """The share of the codes that the reply names."""
        return read_codes(planned, result)


def read_codes(planned: PlannedRequest, result: RequestResult) -> Answer | None:
    """The share of the codes that the reply names, each as a number of its own and in whatever order."""
    if not result.ok:
        return None
    numbers = set(re.findall(r"\d+", result.content))
    codes = planned.expect["codes"]
    found = [code for code in codes if code in numbers]
    return Answer(scores={"recall": len(found) / len(codes)}, detail={"found": found})
