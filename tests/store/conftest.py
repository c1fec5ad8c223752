"""Rows, manifests and a state folder of their own for store tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ds4bench.core import (
    BatchRow,
    CheckResult,
    CheckStatus,
    Fingerprint,
    GateVerdict,
    RequestResult,
    RequestRow,
    RunManifest,
    Verdict,
)
from tests import records


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
        return records.run_manifest(
            run_id=run_id,
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
        row = {"cell": "p600-c1", "repeat": repeat, "result": result, "expect": {"prompt_tokens": 600, "codes": ["1"]}}
        return records.request_row(**{**row, **changes})

    return make


@pytest.fixture
def batch_row() -> Callable[..., BatchRow]:
    def make(repeat: int = 0, **changes: object) -> BatchRow:
        return records.batch_row(
            **{"cell": "p600-c1", "repeat": repeat, "wall_s": 2.0, "probe_ms": 50.0 + repeat, **changes}
        )

    return make


@pytest.fixture
def verdict() -> Callable[..., GateVerdict]:
    def make(kind: Verdict = Verdict.PASS, sentence: str = "TTFT is 1 % faster") -> GateVerdict:
        checks = [CheckResult(name="cold_verified", status=CheckStatus.OK, detail="0 cached tokens")]
        return GateVerdict(verdict=kind, sentence=sentence, checks=checks, rules=[])

    return make
