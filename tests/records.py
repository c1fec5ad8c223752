"""Records as a healthy run leaves them; a test says only what is different about its own."""

from __future__ import annotations

from typing import Any

import msgspec

from ds4bench.core import (
    Baseline,
    BatchRow,
    ClientHealth,
    RequestResult,
    RequestRow,
    RunData,
    RunManifest,
)
from ds4bench.gpu_state import GpuState
from ds4bench.spec.load import EffectiveGate

HEALTH = ClientHealth(
    heartbeat_lag_p50_ms=0.1,
    heartbeat_lag_p99_ms=0.5,
    heartbeat_lag_max_ms=1.0,
    lateness_max_ms=0.3,
    burst_share=0.0,
    cpu_share=0.1,
)


GPU = GpuState(
    gpu=0, memory_mib=71_000, power_w=690.4, utilisation_percent=97, sm_clock_mhz=1980, temperature_c=71, slowdowns=[],
    foreign={},
)  # fmt: skip
"""The serve's only GPU, which nothing disturbs."""


def request_row(cell: str = "c", **changes: Any) -> RequestRow:
    """The only request of a measured batch; ``changes`` are fields of the row."""
    row: dict[str, Any] = {"repeat": 0, "attempt": 0, "index": 0, "phase": "measure", "result": RequestResult(ok=True)}
    return RequestRow(cell=cell, **{**row, **changes})


def batch_row(cell: str = "c", **changes: Any) -> BatchRow:
    """A measured batch of one request; ``changes`` are fields of the row."""
    row: dict[str, Any] = {"repeat": 0, "attempt": 0, "phase": "measure", "requests": 1, "wall_s": 1.0}
    return BatchRow(cell=cell, **{**row, "delivered_concurrency": 1.0, "health": HEALTH, **changes})


def run_manifest(gate: EffectiveGate | None = None, /, **changes: Any) -> RunManifest:
    """The manifest of a run of ``gate``, or of a gate that nobody asks about."""
    made = RunManifest(
        schema=1, run_id="r1", created="2026-11-21T03:15:00Z", gate="g", profile="p", effective_gate={}, target={},
        measurement_hash="", measurement={}, fingerprint=None, provenance={},
    )  # fmt: skip
    if gate is not None:
        made = msgspec.structs.replace(
            made, gate=gate.spec.name, profile=gate.profile, effective_gate=gate.to_dict(),
            measurement_hash=gate.measurement_hash, measurement=gate.measurement,
        )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def baseline_of(run: RunData, name: str = "base", **changes: Any) -> Baseline:
    """The run, promoted."""
    manifest = run.manifest
    assert manifest.fingerprint is not None
    made = Baseline(
        schema=1, name=name, created=manifest.created, gate=manifest.gate, profile=manifest.profile,
        run_id=manifest.run_id, measurement_hash=manifest.measurement_hash, measurement=manifest.measurement,
        metric_schema=manifest.metric_schema, fingerprint=manifest.fingerprint, provenance={}, requests=run.requests,
        scripts=run.scripts, batches=run.batches,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)
