"""What each workload declares for gate files: axes, options, version, validity checks, columns of its report.

One file a workload and one name here; the file of the same name under ``ds4bench/workloads`` is the workload itself. Only
pydantic is imported: parsing a gate file must not load a workload.
"""

from __future__ import annotations

from importlib import import_module

from ds4bench.spec.workloads.base import WorkloadSpec

_NAMES = (
    "gsm8k",
    "long_context",
    "long_decode",
    "mixed_arrival",
    "mt_bench",
    "needle",
    "oracle",
    "prefix_cache",
    "random_lengths",
    "soak",
    "stream_parity",
    "toolcall15",
)

WORKLOADS: dict[str, WorkloadSpec] = {name: import_module(f"{__name__}.{name}").SPEC for name in _NAMES}
"""Every workload by the name that gate files use."""
