"""Decoding behind long prompts: every request of a batch is prefilled first, then all decode together."""

from __future__ import annotations

import asyncio

import msgspec

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.long_context import LongContextMatrix
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.filler import load_filler
from ds4bench.workloads.long_context import CODES
from ds4bench.workloads.long_prompts import LongPrompts


class LongDecode:
    """The workload of the long-context-decode gate.

    A script sends its prompt twice: for one token, which leaves it in the prefix cache, and, when all of the batch have done
    so, for the whole reply. So no prefill but that of a last block runs beside the decoding that is measured.
    """

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.matrix, LongContextMatrix)
        self._spec, self._matrix = spec, spec.matrix
        self._prompts = LongPrompts(spec, run_id, load_filler(), CODES)

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError when the longest prompt does not fit the serve."""
        await self._prompts.prepare(endpoint, control, max(self._matrix.prompt_tokens), self._spec.request.max_tokens)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``."""
        warmup = self._spec.warmup.requests_per_cell
        count = cell.concurrency if phase == "measure" or warmup == "concurrency" else warmup
        together = Meeting(count)
        tokens = int(cell.params["prompt_tokens"])
        names = [f"{phase} {repeat} {attempt} {index}" for index in range(count)]
        requests = [await self._prompts.request(cell, name, i, tokens) for i, name in enumerate(names)]
        return Batch([_script(planned, together) for planned in requests])

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: only the pace counts."""
        return None


class Meeting:
    """Lets everybody go on when all have come. Who will not come must say so by ``arrive`` too."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._complete = asyncio.Event()

    def arrive(self) -> None:
        """One more has come."""
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()

    async def wait(self) -> None:
        """Until all have come."""
        await self._complete.wait()


def _script(planned: PlannedRequest, together: Meeting) -> Script:
    prime = _with(planned, "prefill", {"max_tokens": 1})
    decode = _with(planned, "decode", {})

    async def run(send: Send) -> Answer | None:
        try:
            first = await send(prime)
        finally:
            together.arrive()
        if first.ok:
            await together.wait()
            await send(decode)
        return None

    return Script(key=f"{planned.cell}/{planned.index}", run=run, first=prime)


def _with(planned: PlannedRequest, step: str, body: dict[str, int]) -> PlannedRequest:
    return msgspec.structs.replace(planned, body={**planned.body, **body}, expect={**planned.expect, "step": step})
