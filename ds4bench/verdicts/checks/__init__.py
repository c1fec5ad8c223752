"""Does the measurement measure what it says? One small function a check, named as the report shows it.

Each takes the evidence and returns a CheckResult. FAILED makes the run INVALID; UNVERIFIED keeps it from a PASS;
NOT_APPLICABLE is shown as that and never as passed. Which checks a gate has is said by its workload
(``spec/workloads``); a workload's own check is a function in a file here and a line in ``CHECKS``.
"""

from __future__ import annotations

from collections.abc import Callable

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.baseline import comparable
from ds4bench.verdicts.checks.client import client_not_starved, delivered_concurrency
from ds4bench.verdicts.checks.codes import codes_not_cut
from ds4bench.verdicts.checks.cold import cold_verified
from ds4bench.verdicts.checks.completions import all_items_answered, completions_whole
from ds4bench.verdicts.checks.conversations import (
    effort_effective,
    reasoning_parsed,
    replies_not_cut,
    tools_called,
)
from ds4bench.verdicts.checks.first_tokens import ttft_sources_agree
from ds4bench.verdicts.checks.gpu import gpu_quiet
from ds4bench.verdicts.checks.kernels import kernels_loaded
from ds4bench.verdicts.checks.lengths import full_length_replies, length_within, no_truncation
from ds4bench.verdicts.checks.logprobs import logprobs_complete
from ds4bench.verdicts.checks.machine import machine_quiet, machine_steady
from ds4bench.verdicts.checks.mode import mode_effective
from ds4bench.verdicts.checks.prefix import hit_sources_agree, hits_reported, no_accidental_hits, primed
from ds4bench.verdicts.checks.results import not_applicable
from ds4bench.verdicts.checks.serve import all_requests_ok, model_identity, server_alive
from ds4bench.verdicts.checks.speculation import speculation_effective
from ds4bench.verdicts.checks.tokens import token_counts_agree
from ds4bench.verdicts.checks.turns import arrivals_overlap, conversations_grow
from ds4bench.verdicts.checks.values import possible_values
from ds4bench.verdicts.checks.warm import warmed_up
from ds4bench.verdicts.evidence import Evidence

Check = Callable[[Evidence], CheckResult]

CHECKS: dict[str, Check] = {
    "server_alive": server_alive,
    "all_requests_ok": all_requests_ok,
    "all_items_answered": all_items_answered,
    "model_identity": model_identity,
    "kernels_loaded": kernels_loaded,
    "mode_effective": mode_effective,
    "speculation_effective": speculation_effective,
    "reasoning_parsed": reasoning_parsed,
    "effort_effective": effort_effective,
    "replies_not_cut": replies_not_cut,
    "tools_called": tools_called,
    "completions_whole": completions_whole,
    "cold_verified": cold_verified,
    "hits_reported": hits_reported,
    "hit_sources_agree": hit_sources_agree,
    "no_accidental_hits": no_accidental_hits,
    "primed": primed,
    "conversations_grow": conversations_grow,
    "arrivals_overlap": arrivals_overlap,
    "logprobs_complete": logprobs_complete,
    "no_truncation": no_truncation,
    "length_within": length_within,
    "codes_not_cut": codes_not_cut,
    "full_length_replies": full_length_replies,
    "delivered_concurrency": delivered_concurrency,
    "possible_values": possible_values,
    "token_counts_agree": token_counts_agree,
    "ttft_sources_agree": ttft_sources_agree,
    "warmed_up": warmed_up,
    "client_not_starved": client_not_starved,
    "machine_quiet": machine_quiet,
    "gpu_quiet": gpu_quiet,
    "machine_steady": machine_steady,
    "comparable": comparable,
}
NEVER_BLOCKS = frozenset({"comparable"})
"""Unverified, these keep only the rules against the baseline from deciding, and those say so themselves."""


def run_checks(evidence: Evidence) -> list[CheckResult]:
    """The checks of the gate's workload, those that explain others first."""
    names = evidence.spec.declared.checks
    fingerprint = evidence.run.manifest.fingerprint
    if fingerprint is not None and fingerprint.kernels is not None:  # nobody else need read that it does not apply
        names = (*names, "kernels_loaded")
    if not evidence.batches:
        rest = [not_applicable(name, "nothing was measured") for name in names if name != "server_alive"]
        return [server_alive(evidence), *rest]
    return [CHECKS[name](evidence) for name in names]
