"""Two requests that meet: a long prefill behind a running decode, or a short prompt behind a long prefill."""

from __future__ import annotations

import asyncio

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.mixed_arrival import MixedArrivalMatrix, MixedArrivalOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.filler import load_filler
from ds4bench.workloads.long_context import CODES
from ds4bench.workloads.long_prompts import LongPrompts


class MixedArrival:
    """The workload of the mixed-arrival gate."""

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.matrix, MixedArrivalMatrix)
        assert isinstance(spec.options, MixedArrivalOptions)
        self._spec, self._matrix, self._options = spec, spec.matrix, spec.options
        self._prompts = LongPrompts(spec, run_id, load_filler(), CODES)

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError when the longest request does not fit the serve."""
        options = self._options
        longest = max(*self._matrix.prompt_tokens, options.short_tokens)
        reply = max(self._spec.request.max_tokens, options.decode_tokens)
        await self._prompts.prepare(endpoint, control, longest, reply)

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``. A warm-up is a whole batch."""
        if phase == "warmup" and self._spec.warmup.requests_per_cell == 0:
            return Batch([])
        long, short = int(cell.params["prompt_tokens"]), self._options.short_tokens
        name = f"{phase} {repeat} {attempt}"
        if cell.params["arrival"] == "prefill_behind_decode":
            decoding = {"max_tokens": self._options.decode_tokens, "ignore_eos": True}
            first = await self._request(cell, name, 0, short, decoding)
            second = await self._request(cell, name, 1, long, {})
            return Batch(meeting(first, second, self._options.delay_s, behind_token=True))
        first = await self._request(cell, name, 0, long, {})
        second = await self._request(cell, name, 1, short, {})
        return Batch(meeting(first, second, self._options.delay_s, behind_token=False))

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: only the times count."""
        return None

    async def _request(
        self, cell: Cell, name: str, index: int, tokens: int, changes: dict[str, int | bool]
    ) -> PlannedRequest:
        expect = {"role": ("first", "second")[index]}
        return await self._prompts.request(cell, f"{name} {index}", index, tokens, changes=changes, expect=expect)


def meeting(first: PlannedRequest, second: PlannedRequest, delay_s: float, *, behind_token: bool) -> list[Script]:
    """Two scripts; the second sends ``delay_s`` behind the start of the first or (``behind_token``) its first token.

    Should the first end without a token, the second comes at once: it must not wait for ever.
    """
    begun = asyncio.Event()

    async def lead(send: Send) -> Answer | None:
        if not behind_token:
            begun.set()
        try:
            await send(first)
        finally:
            begun.set()
        return None

    async def follow(send: Send) -> Answer | None:
        await begun.wait()
        await asyncio.sleep(delay_s)
        await send(second)
        return None

    return [
        Script(key=f"{first.cell}/first", run=lead, first=first, on_first_token=begun.set if behind_token else None),
        Script(key=f"{first.cell}/second", run=follow, first=second, at_barrier=False),
    ]
