"""What each workload declares for gate files: axes, options, version, validity checks, columns of its report.

One file a workload and one line here. Only pydantic is imported: parsing a gate file must not load a workload.
"""

from __future__ import annotations

from ds4bench.spec.workloads import long_context, mt_bench, random_lengths
from ds4bench.spec.workloads.base import WorkloadSpec

WORKLOADS: dict[str, WorkloadSpec] = {
    declared.SPEC.name: declared.SPEC
    for declared in (
        long_context,
        mt_bench,
        random_lengths,
    )
}
