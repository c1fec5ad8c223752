"""Promotions of shipped gates that never ran: rows as a serve would leave them, with a known truth and a known noise.

A promotion is a baseline of the gate's repeats and a candidate that gets the declared extension where its first look asks
for it, judged by ``decide`` as a real run is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from ds4bench.core import Cell, RequestResult, RequestRow, RunData, Verdict
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.extension import extended, extension_due
from tests.records import baseline_of, batch_row, request_row, run_manifest
from tests.verdicts.conftest import FINGERPRINT, reply_row

GATES = Path(__file__).parents[2] / "gates"
ELSEWHERE = msgspec.structs.replace(FINGERPRINT, local=False)
"""A serve on another machine: the checks of this machine's CPU and GPUs have nothing to say."""

Slower = Callable[[Cell], float]
"""How many times as long a request of the cell truly takes on the candidate."""
Rows = Callable[[Cell, int, int, float], list[RequestRow]]
"""The rows of a request that takes so many times as long as usual: (cell, repeat, index, times)."""


@dataclass(frozen=True)
class Noise:
    """Standard deviations of logarithms: of a session, of all of a repeat, of a single batch, of a single request."""

    session: float
    repeat: float = 0.0
    batch: float = 0.0
    request: float = 0.01


def unchanged(cell: Cell) -> float:
    """A candidate that is the baseline's build."""
    return 1.0


def promote(
    gate: EffectiveGate, rows: Rows, slower: Slower, noise: Noise, *, count: int, seed: int
) -> Counter[Verdict]:
    """Verdicts of ``count`` promotions."""
    rng, longer, verdicts = np.random.default_rng(seed), extended(gate), Counter[Verdict]()
    for _ in range(count):
        baseline = baseline_of(_session(gate, rows, unchanged, noise, rng))
        whole = _session(longer, rows, slower, noise, rng)
        verdict = decide(gate, _first_look(whole, gate.spec.repeats.count), baseline)
        if extension_due(gate, verdict):
            verdict = decide(gate, whole, baseline)
        assert verdict.rules, verdict.sentence  # a run that is INVALID would have none
        verdicts[verdict.verdict] += 1
    return verdicts


def full(name: str) -> EffectiveGate:
    """The profile that is promoted, as shipped."""
    return load_gate(name, profile="full", directory=GATES)


def cold(cell: Cell, repeat: int, index: int, times: float) -> list[RequestRow]:
    """long-context: a prompt that waits for those before it."""
    return [reply_row(cell.id, repeat, index, int(cell.params["prompt_tokens"]) / 2000 * (index + 1) * times)]


def decoded(cell: Cell, repeat: int, index: int, times: float) -> list[RequestRow]:
    """long-context-decode: one token, which leaves the prompt in the cache, then the reply behind it."""
    tokens = int(cell.params["prompt_tokens"])
    first = _reply(tokens, made=1, cached=0, tpot_ms=None)
    then = _reply(tokens, made=256, cached=tokens - tokens % 64, tpot_ms=(15 + tokens / 20_000) * times)
    steps = (("prefill", first), ("decode", then))
    return [
        request_row(
            cell.id, repeat=repeat, index=index, script=index, turn=turn, result=result,
            expect={"prompt_tokens": tokens, "step": step},
        )
        for turn, (step, result) in enumerate(steps)
    ]  # fmt: skip


def question(cell: Cell, repeat: int, index: int, times: float) -> list[RequestRow]:
    """mt-bench: a short prompt."""
    result = _reply(80, made=400, cached=0, tpot_ms=(12 + 0.3 * cell.concurrency) * times)
    return [request_row(cell.id, repeat=repeat, index=index, script=index, result=result)]


def _reply(prompt: int, *, made: int, cached: int, tpot_ms: float | None) -> RequestResult:
    took = (tpot_ms or 0.0) / 1000 * (made - 1)
    return RequestResult(
        ok=True, http_status=200, ttft_s=0.5, ttfa_s=0.5, e2e_s=0.5 + took, tpot_ms=tpot_ms, tpot_decode_ms=tpot_ms,
        prompt_tokens=prompt, completion_tokens=made, cached_tokens=cached, finish_reason="length", model="ds4-tiny",
    )  # fmt: skip


def _session(gate: EffectiveGate, rows: Rows, slower: Slower, noise: Noise, rng: np.random.Generator) -> RunData:
    """A complete run of the gate on a serve that was started once."""
    requests, batches = [], []
    session = rng.normal(0, noise.session)
    for repeat in range(gate.spec.repeats.count):
        of_repeat = rng.normal(0, noise.repeat)
        for cell in gate.spec.matrix.cells():
            level = np.log(slower(cell)) + session + of_repeat + rng.normal(0, noise.batch)
            times = np.exp(level + rng.normal(0, noise.request, cell.concurrency))
            made = [row for index, one in enumerate(times) for row in rows(cell, repeat, index, float(one))]
            requests += made
            batches.append(
                batch_row(cell.id, repeat=repeat, requests=len(made), delivered_concurrency=float(cell.concurrency))
            )
    return RunData(manifest=run_manifest(gate, fingerprint=ELSEWHERE), requests=requests, batches=batches)


def _first_look(run: RunData, repeats: int) -> RunData:
    return msgspec.structs.replace(
        run,
        requests=[row for row in run.requests if row.repeat < repeats],
        batches=[row for row in run.batches if row.repeat < repeats],
    )
