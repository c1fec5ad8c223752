"""``workload: mt_bench``."""

from __future__ import annotations

from typing import ClassVar, Literal

from ds4bench.spec.base import MatrixSpec, OptionsSpec, PositiveInt, PositiveInts
from ds4bench.spec.workloads.base import ALWAYS, TIMED, WorkloadSpec


class MtBenchMatrix(MatrixSpec):
    """The sweep over concurrency."""

    ID: ClassVar[str] = "mtbench-c{concurrency}"

    concurrency: PositiveInts


class MtBenchOptions(OptionsSpec):
    """Which prompts without ``--data``, and how many requests a cell sends: so many per slot, and at least so many."""

    data: Literal["mt-bench", "mt-bench-ds4"] = "mt-bench"
    requests_per_slot: PositiveInt = 10
    least_requests: PositiveInt = 80


SPEC = WorkloadSpec(
    name="mt_bench",
    implementation="MtBench",
    version=1,
    matrix=MtBenchMatrix,
    options=MtBenchOptions,
    checks=(*ALWAYS, "mode_effective", "speculation_effective", "delivered_concurrency", *TIMED, "comparable"),
    columns=("n", "ttft_median", "tpot", "baseline", "ratio", "output", "steady", "accepted", "tokens", "failed"),
    reads_data=True,
)
