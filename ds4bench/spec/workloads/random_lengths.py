"""``workload: random_lengths``."""

from __future__ import annotations

from typing import ClassVar

from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, TIMED, WorkloadSpec


class RandomLengthsMatrix(MatrixSpec):
    """The cells: every prompt length (tokens by the served tokenizer) at every concurrency."""

    ID: ClassVar[str] = "p{prompt_tokens}-c{concurrency}"

    prompt_tokens: PositiveInts
    concurrency: PositiveInts


class RandomLengthsOptions(OptionsSpec):
    """How many requests a cell sends (at least one per slot)."""

    requests: PositiveInt = 32


SPEC = WorkloadSpec(
    name="random_lengths",
    implementation="RandomLengths",
    version=1,
    matrix=RandomLengthsMatrix,
    options=RandomLengthsOptions,
    checks=(
        *ALWAYS,
        *("cold_verified", "no_truncation", "length_within", "full_length_replies", "delivered_concurrency"),
        *TIMED,
        "comparable",
    ),
    columns=("n", "ttft", "tpot", "baseline", "ratio", "prefill", "output", "steady", "failed"),
)
