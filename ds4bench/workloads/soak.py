"""Conversations side by side that grow from round to round, for a number of rounds or for a time."""

from __future__ import annotations

import random
import time
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.workloads.soak import SoakOptions
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Script, Send
from ds4bench.workloads.filler import load_filler
from ds4bench.workloads.prefix_cache import sentences_of
from ds4bench.workloads.request_body import PATHS, salt_of, sampling_fields, template_fields

_ASK = "What happened in this part of the journal? Answer in one short sentence."


class Soak:
    """The workload of the soak gate. Every conversation begins with a salt of its own."""

    def __init__(self, spec: GateSpec, run_id: str) -> None:
        assert isinstance(spec.options, SoakOptions)
        self._spec, self._options = spec, spec.options
        self._run_id = run_id
        self._filler = load_filler()
        self._endpoint: Endpoint | None = None

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        """See ``Workload``. Raises WorkloadError for a gate that does not talk."""
        if self._spec.request.endpoint != "chat":
            raise WorkloadError(f"gate {self._spec.name}: conversations are chats; set request.endpoint to chat")
        self._endpoint = endpoint

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        """See ``Workload``. A warm-up is one round of each conversation, or of as many as the gate says."""
        warmup = self._spec.warmup.requests_per_cell
        count = cell.concurrency if phase == "measure" or warmup == "concurrency" else warmup
        clients = [f"{phase} {repeat} {attempt} {place}" for place in range(count)]
        return Batch([self._client(cell, place, name, phase) for place, name in enumerate(clients)])

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        """Nothing: what is said does not matter here."""
        return None

    def _client(self, cell: Cell, place: int, name: str, phase: Phase) -> Script:
        options = self._options
        rounds = options.rounds if phase == "measure" else 1
        parts = {0: self._parts(cell, f"{name} 0", rounds)}
        first = self._planned(cell, 0, 0, [_user(parts[0][0])])

        async def run(send: Send) -> Answer | None:
            end = time.monotonic() + (options.duration_s or 0.0)
            talks = 0
            while talks == 0 or (phase == "measure" and time.monotonic() < end):
                texts = parts.get(talks) or self._parts(cell, f"{name} {talks}", rounds)
                if not await self._talk(cell, talks, texts, first, send):
                    return None
                talks += 1
            return Answer(detail={"conversations": talks})

        return Script(key=f"{cell.id}/{place}", run=run, first=first)

    async def _talk(self, cell: Cell, talk: int, texts: list[str], first: PlannedRequest, send: Send) -> bool:
        """One conversation; whether every turn was answered."""
        messages: list[dict[str, Any]] = []
        for number, text in enumerate(texts):
            messages = [*messages, _user(text)]
            planned = first if talk == number == 0 else self._planned(cell, talk, number, messages)
            result = await send(planned)
            if not result.ok:
                return False
            messages = [*messages, {"role": "assistant", "content": result.content}]
        return True

    def _parts(self, cell: Cell, name: str, rounds: int) -> list[str]:
        rng = random.Random(f"{self._spec.seed} {cell.id} {name}")  # noqa: S311 - text, not secrets
        salt = salt_of(self._run_id, f"{cell.id} {name}")
        texts = [" ".join(sentences_of(self._filler, rng, self._options.words_per_round)) for _ in range(rounds)]
        return [f"{salt}\n{text}\n\n{_ASK}" if n == 0 else f"{text}\n\n{_ASK}" for n, text in enumerate(texts)]

    def _planned(self, cell: Cell, talk: int, number: int, messages: list[dict[str, Any]]) -> PlannedRequest:
        if self._endpoint is None:
            raise WorkloadError("prepare() comes before batch()")
        spec = self._spec.request
        body = {**template_fields(spec, self._endpoint), "messages": messages, **sampling_fields(spec, self._endpoint)}
        expect = {"conversation": talk, "round": number}
        index = talk * self._options.rounds + number
        return PlannedRequest(cell.id, index, PATHS["chat"], {**body, **spec.extra_body}, expect)


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
