"""Workloads by the name that gate files use."""

from __future__ import annotations

from ds4bench.spec.gate import GateSpec
from ds4bench.workloads.base import Workload


def make_workload(spec: GateSpec, run_id: str) -> Workload:
    """The workload of a gate. ``run_id`` enters the salts, so that no two runs send the same prompt."""
    from ds4bench.workloads.long_context import LongContext

    return {"long_context": LongContext}[spec.workload](spec, run_id)
