"""Rows, manifests and a state folder of their own for store tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ds4bench.core import (
    BatchRow,
    CheckResult,
    CheckStatus,
    ClientHealth,
    Fingerprint,
    GateVerdict,
    RequestResult,
    RequestRow,
    RunManifest,
    Verdict,
)

HEALTH = ClientHealth(
    heartbeat_lag_p50_ms=0.1,
    heartbeat_lag_p99_ms=0.2,
    heartbeat_lag_max_ms=0.3,
    lateness_max_ms=0,
    burst_share=0,
    cpu_share=0,
)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty state folder and project root."""
    home = tmp_path / "home"
    for name in ("gates", "prompts"):
        (home / name).mkdir(parents=True)
    monkeypatch.setenv("DS4BENCH_HOME", str(home))
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def manifest() -> Callable[[str], RunManifest]:
    def make(run_id: str = "20261101-000000-small-smoke-aaaa") -> RunManifest:
        return RunManifest(
            schema=1,
            run_id=run_id,
            created="2026-11-01T00:00:00Z",
            gate="small",
            profile="smoke",
            effective_gate={"spec": {}},
            measurement_hash="0123456789abcdef",
            measurement={"matrix": {"prompt_tokens": [600], "concurrency": [1]}},
            target={"name": "embedded", "role": "candidate"},
            fingerprint=Fingerprint(engine="e", model="m", model_revision="r", hardware={"cpu": "c", "cores": 2}),
            provenance={"git": {"commit": "abc", "dirty": False}, "command": ["ds4bench"]},
        )

    return make


@pytest.fixture
def request_row() -> Callable[..., RequestRow]:
    def make(repeat: int = 0, **changes: object) -> RequestRow:
        result = RequestResult(
            ok=True, ttft_s=1.0 + repeat / 100, e2e_s=2.0, tpot_ms=20.0, prompt_tokens=600, completion_tokens=4,
            cached_tokens=0, content="long text", chunk_times_s=[1.0, 2.0], model="m",
        )  # fmt: skip
        row = {"cell": "p600-c1", "repeat": repeat, "attempt": 0, "index": 0, "phase": "measure", "result": result}
        return RequestRow(**{**row, "expect": {"prompt_tokens": 600, "codes": ["1"]}, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def batch_row() -> Callable[..., BatchRow]:
    def make(repeat: int = 0, **changes: object) -> BatchRow:
        row = {"cell": "p600-c1", "repeat": repeat, "attempt": 0, "phase": "measure", "requests": 1, "wall_s": 2.0}
        extra = {"delivered_concurrency": 1.0, "health": HEALTH, "probe_ms": 50.0 + repeat}
        return BatchRow(**{**row, **extra, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def verdict() -> Callable[..., GateVerdict]:
    def make(kind: Verdict = Verdict.PASS, sentence: str = "TTFT is 1 % faster") -> GateVerdict:
        checks = [CheckResult(name="cold_verified", status=CheckStatus.OK, detail="0 cached tokens")]
        return GateVerdict(verdict=kind, sentence=sentence, checks=checks, rules=[])

    return make
