"""A small world of runs: the real smoke gate, records as a serve and the store would leave them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ds4bench.core import Baseline, BatchRow, CheckResult, Fingerprint, RequestResult, RequestRow, RunData
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.verdicts.checks import run_checks
from ds4bench.verdicts.evidence import gather
from tests.records import GPU, HEALTH, baseline_of, batch_row, request_row, run_manifest

GATES = Path(__file__).parents[2] / "gates"
FINGERPRINT = Fingerprint(
    engine="ds4bench-embedded",
    engine_version="0.1.0",
    model="ds4-tiny",
    model_revision="seed-0",
    weights="random",
    prefix_caching=True,
    hardware={"cpu": "a cpu", "cores": 2, "gpus": [], "driver": None},
    local=True,
)

STATED = ("rules.ttft.margin=0.10", "rules.ttft.per_cell_margin=0.20", "rules.ttft.session_cv=0.015")
"""The rule that tests of single verdicts count on, whatever the shipped profile says."""

Ttft = Callable[[str, int, int], float]


def plain_ttft(cell: str, repeat: int, index: int) -> float:
    """Seconds: by prompt length and place in the queue, with a small fixed spread over repeats."""
    tokens = int(cell.removeprefix("p").partition("-")[0])
    return tokens / 2000 * (index + 1) * (1 + 0.004 * (repeat - 1))


class World:
    """Builds gates, runs and baselines; every argument changes one thing of a healthy run."""

    def gate(self, *overrides: str, profile: str = "smoke", repeats: int | None = 3) -> EffectiveGate:
        """The gate file's profile with a ``STATED`` rule; ``repeats`` None: its repeats and rule as shipped."""
        count = () if repeats is None else (f"repeats.count={repeats}", *STATED)
        return load_gate("long-context", profile=profile, overrides=(*count, *overrides), directory=GATES)

    def check(self, name: str, *overrides: str, with_baseline: bool = True, **changes: Any) -> CheckResult:
        """What one check says of a run that is healthy but for ``changes``."""
        gate = self.gate(*overrides)
        baseline = self.baseline(self.run(gate)) if with_baseline else None
        results = run_checks(gather(gate, self.run(gate, **changes), baseline))
        return next(result for result in results if result.name == name)

    def run(
        self,
        gate: EffectiveGate,
        *,
        ttft: Ttft = plain_ttft,
        result: dict[str, Any] | None = None,
        where: Callable[[RequestRow], bool] = lambda row: True,
        row: dict[str, Any] | None = None,
        batch: dict[str, Any] | None = None,
        health: dict[str, Any] | None = None,
        fingerprint: dict[str, Any] | None = None,
        manifest: dict[str, Any] | None = None,
        batches_done: int | None = None,
        died: str | None = None,
    ) -> RunData:
        """A complete run; ``result`` and ``row`` change the requests that ``where`` picks."""
        requests: list[RequestRow] = []
        batches: list[BatchRow] = []
        changed_health = msgspec.structs.replace(HEALTH, **(health or {}))
        for repeat in range(gate.spec.repeats.count):
            for cell in gate.spec.matrix.cells():
                served_s = 0.0
                for index in range(cell.concurrency):
                    served_s += ttft(cell.id, repeat, index) - 0.002
                    made = reply_row(cell.id, repeat, index, ttft(cell.id, repeat, index))
                    if where(made):
                        answer = msgspec.structs.replace(made.result, **(result or {}))
                        made = msgspec.structs.replace(made, result=answer, **(row or {}))
                    requests.append(made)
                made_batch = batch_row(
                    cell.id, repeat=repeat, requests=cell.concurrency, delivered_concurrency=float(cell.concurrency),
                    health=changed_health, probe_ms=50.0, foreign_cores=0.02,
                    gpus_before=[GPU], gpus_after=[GPU],
                    counters={
                        "generation_tokens": 16 * cell.concurrency,
                        "ttft_seconds_sum": served_s,
                        "ttft_seconds_count": cell.concurrency,
                    },
                )  # fmt: skip
                batches.append(msgspec.structs.replace(made_batch, **(batch or {})))
        told: dict[str, Any] = {
            "run_id": "20261121-031500-long-context-smoke-ab12",
            "fingerprint": msgspec.structs.replace(FINGERPRINT, **(fingerprint or {})),
            **(manifest or {}),
        }
        return RunData(
            manifest=run_manifest(gate, **told),
            requests=requests,
            batches=batches[:batches_done],
            died=died,
        )

    def baseline(self, run: RunData, **changes: Any) -> Baseline:
        """The run, promoted."""
        return baseline_of(run, "here", **changes)


def reply_row(cell: str, repeat: int, index: int, ttft_s: float) -> RequestRow:
    tokens = int(cell.removeprefix("p").partition("-")[0])
    result = RequestResult(
        ok=True,
        http_status=200,
        ttft_s=ttft_s,
        ttfa_s=ttft_s,
        e2e_s=ttft_s + 0.375,
        tpot_ms=25.0,
        tpot_decode_ms=25.0,
        prompt_tokens=tokens,
        completion_tokens=16,
        cached_tokens=0,
        finish_reason="length",
        model="ds4-tiny",
        chunk_times_s=[ttft_s + 0.025 * i for i in range(16)],
    )
    return request_row(cell, repeat=repeat, index=index, result=result, expect={"prompt_tokens": tokens})


@pytest.fixture
def world() -> World:
    return World()
