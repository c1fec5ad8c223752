"""What each workload declares for gate files: axes, options, version, validity checks, columns of its report.

One file a workload and one line here. Only pydantic is imported: parsing a gate file must not load a workload.
"""

from __future__ import annotations

from ds4bench.spec.workloads import (
    gsm8k,
    long_context,
    long_decode,
    mixed_arrival,
    mt_bench,
    needle,
    oracle,
    prefix_cache,
    random_lengths,
    soak,
    stream_parity,
    toolcall15,
)
from ds4bench.spec.workloads.base import WorkloadSpec

WORKLOADS: dict[str, WorkloadSpec] = {
    declared.SPEC.name: declared.SPEC
    for declared in (
        gsm8k,
        long_context,
        long_decode,
        mixed_arrival,
        mt_bench,
        needle,
        oracle,
        prefix_cache,
        random_lengths,
        soak,
        stream_parity,
        toolcall15,
    )
}
