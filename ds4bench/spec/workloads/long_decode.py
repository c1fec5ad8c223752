"""``workload: long_decode``."""

from __future__ import annotations

from ds4bench.spec.workloads.base import ALWAYS, TIMED, WorkloadSpec
from ds4bench.spec.workloads.long_context import LongContextMatrix

SPEC = WorkloadSpec(
    name="long_decode",
    implementation="LongDecode",
    version=1,
    matrix=LongContextMatrix,
    checks=(
        *ALWAYS,
        *("primed", "no_truncation", "length_within", "delivered_concurrency"),
        *TIMED,
        "comparable",
    ),
    columns=("n", "tpot", "baseline", "ratio", "decode", "failed"),
)
