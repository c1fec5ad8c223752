"""What a workload declares for gate files, without being imported itself."""

from __future__ import annotations

from dataclasses import dataclass

from ds4bench.spec.base import MatrixSpec, OptionsSpec

ALWAYS = ("server_alive", "all_requests_ok", "model_identity")
"""Checks of every gate, those first that explain others."""
TIMED = (
    *("possible_values", "token_counts_agree", "ttft_sources_agree"),
    *("warmed_up", "client_not_starved", "machine_quiet", "gpu_quiet", "machine_steady"),
)
"""Checks of every gate that judges times."""


@dataclass(frozen=True)
class WorkloadSpec:
    """A workload as a gate file sees it. ``implementation`` is its class in ``ds4bench.workloads.NAME``, named, not imported.

    ``version`` is part of the measurement: raised by hand when the workload sends something else for the same gate file.
    ``checks`` are names of ``verdicts/checks``, in the order of the report. ``columns`` are names of ``report/columns.py``.
    ``independent``: a script of its batches is an item for itself, so that a resumed run repeats only what had not ended.
    ``keeps_detail``: the details of its scripts are what a baseline is for. ``machine_matters`` False: what it measures
    follows from the model alone, so a baseline of other hardware, caching or speculation will do.
    """

    name: str
    implementation: str
    version: int
    matrix: type[MatrixSpec]
    options: type[OptionsSpec] = OptionsSpec
    checks: tuple[str, ...] = (*ALWAYS, *TIMED, "comparable")
    columns: tuple[str, ...] = ("n", "ttft", "ttft_max", "baseline", "ratio", "decode", "failed")
    reads_data: bool = False
    independent: bool = False
    keeps_detail: bool = False
    machine_matters: bool = True

    @property
    def timed(self) -> bool:
        """Whether its checks are those of a gate that judges times."""
        return set(TIMED) <= set(self.checks)
