"""``workload: long_context``."""

from __future__ import annotations

from typing import ClassVar

from ds4bench.spec.base import MatrixSpec, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, TIMED, WorkloadSpec


class LongContextMatrix(MatrixSpec):
    """The cells: every prompt length (tokens by the served tokenizer) at every concurrency."""

    ID: ClassVar[str] = "p{prompt_tokens}-c{concurrency}"

    prompt_tokens: PositiveInts
    concurrency: PositiveInts


SPEC = WorkloadSpec(
    name="long_context",
    implementation="LongContext",
    version=1,
    matrix=LongContextMatrix,
    checks=(
        *ALWAYS,
        *("cold_verified", "no_truncation", "length_within", "codes_not_cut", "delivered_concurrency"),
        *TIMED,
        "comparable",
    ),
    columns=("n", "ttft", "ttft_max", "baseline", "ratio", "ranks", "prefill", "decode", "failed", "recall"),
)
