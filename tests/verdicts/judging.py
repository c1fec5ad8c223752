"""One stored run of a shipped gate, and a single check or rule asked about it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ds4bench.core import (
    CheckResult,
    Fingerprint,
    RequestResult,
    RequestRow,
    RuleResult,
    RunData,
    ScriptRow,
)
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.verdicts.checks import CHECKS
from ds4bench.verdicts.evidence import Evidence, gather
from ds4bench.verdicts.rules import JUDGES
from tests.records import batch_row, request_row, run_manifest

GATES = Path(__file__).parents[2] / "gates"


def gate(name: str, *overrides: str) -> EffectiveGate:
    return load_gate(name, profile="smoke", overrides=overrides, directory=GATES)


def row(
    cell: str, index: int = 0, *, repeat: int = 0, script: int = 0, expect: Any = None, **result: Any
) -> RequestRow:
    told = {"ok": True, "prompt_tokens": 1000, "completion_tokens": 20, "cached_tokens": 0, "ttft_s": 1.0, **result}
    return request_row(
        cell, repeat=repeat, index=index, result=RequestResult(**told), expect=expect or {}, script=script, turn=index
    )


def run_of(
    effective: EffectiveGate, rows: Sequence[RequestRow], scripts: Sequence[ScriptRow] = (), **counters: float
) -> RunData:
    keys = dict.fromkeys((r.cell, r.repeat) for r in rows)
    batches = [
        batch_row(
            cell,
            repeat=repeat,
            requests=sum((r.cell, r.repeat) == (cell, repeat) for r in rows),
            counters=counters,
        )
        for cell, repeat in keys
    ]
    told = Fingerprint(engine="e", model="m", weights="trained", prefix_caching=True, hardware={"cpu": "a"})
    manifest = run_manifest(effective, fingerprint=told)
    return RunData(manifest=manifest, requests=list(rows), batches=batches, scripts=list(scripts))


def check(name: str, effective: EffectiveGate, rows: Sequence[RequestRow], **counters: float) -> CheckResult:
    return CHECKS[name](gather(effective, run_of(effective, rows, **counters), None))


def judge(name: str, evidence: Evidence) -> list[RuleResult]:
    rule = next(rule for rule in evidence.spec.rules if rule.name == name)
    return JUDGES[rule.kind](rule, evidence)
