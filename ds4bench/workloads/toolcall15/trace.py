"""The stored form of a conversation: complete enough to score it again, years later and without a serve."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import msgspec

from ds4bench.errors import StoreError

TRACE_SCHEMA = 1

Status = Literal["answered", "exhausted", "error"]


class CallRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call, as it came and as it was understood. ``malformed``: the text is no JSON object, counted as ``{}``."""

    id: str
    name: str
    text: str
    arguments: dict[str, Any]
    malformed: bool = False
    result: dict[str, Any] = {}
    mistakes: list[str] = []  # against the tool's schema; they cost nothing by themselves


class TurnRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One reply of the model. ``reasoning`` is None when the reply had none under any of its names."""

    content: str
    reasoning: str | None = None
    calls: list[CallRecord] = []
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None
    e2e_s: float | None = None


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One conversation. ``status`` says how it ended: with an answer, out of turns, or with ``error`` from the caller."""

    schema: int = TRACE_SCHEMA
    scenario: str
    digest: str  # of everything that was sent before the first reply, and of the mocks
    protocol: str
    language: str
    mode: str
    round: int = 0
    user: str
    turns: list[TurnRecord]
    status: Status
    error: str | None = None

    @property
    def calls(self) -> list[CallRecord]:
        """All calls in order."""
        return [call for turn in self.turns for call in turn.calls]

    @property
    def fingerprint(self) -> str:
        """Equal for two traces that say and call the same; ids, times and token counts do not count."""
        said = [(t.content, t.reasoning or "", [(c.name, c.text) for c in t.calls]) for t in self.turns]
        return json.dumps([self.scenario, self.mode, self.status, said], ensure_ascii=False)


def dump_traces(traces: Iterable[Trace]) -> bytes:
    """JSON lines."""
    return b"".join(msgspec.json.encode(trace) + b"\n" for trace in traces)


def load_traces(data: bytes, origin: str = "traces") -> list[Trace]:
    """Traces of JSON lines. Raises StoreError that names ``origin`` and the line."""
    return list(_decoded(data, origin))


def _decoded(data: bytes, origin: str) -> Iterator[Trace]:
    decoder = msgspec.json.Decoder(Trace)
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            trace = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(f"{origin}:{number}: not a tool-call trace: {error}") from None
        if trace.schema != TRACE_SCHEMA:
            raise StoreError(f"{origin}:{number}: trace schema {trace.schema}; this version reads {TRACE_SCHEMA}")
        yield trace
