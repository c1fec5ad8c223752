"""Did the serve have its GPUs to itself, at their full clock?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from ds4bench.core import CheckResult
from ds4bench.gpu_state import GpuState
from ds4bench.verdicts.checks.results import failed, names, not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence

_SHOWN = 4
"""Disturbances that are named; more would hide them."""


def gpu_quiet(evidence: Evidence) -> CheckResult:
    """Nobody else computed on the serve's GPUs just before or after a batch, and none was slowed down just after one.

    The hardware and the driver slow a GPU down that is too hot or short of power: then cooling was measured, not a build. A
    clock held down by the power limit is normal at full load on GPUs of data centres; it is said and fails nothing. Where it
    cannot be told which GPUs are the serve's, a slowdown may be another's: unverified.
    """
    name = "gpu_quiet"
    watched = [batch for batch in evidence.batches if batch.row.gpus_before or batch.row.gpus_after]
    found = _disturbances(watched)
    if sure := [one for one in found if one.sure]:
        return failed(name, _named(sure), [batch for one in sure for batch in one.batches])
    if found:
        return unverified(name, f"{_named(found)}; it cannot be told whether the serve was on it")
    told = _told(watched)
    if not told:
        return not_applicable(name, "no serve on GPUs of this machine, or NVML does not tell of them")
    return ok(name, "; ".join([told, *_readings(watched)]))


@dataclass(frozen=True)
class _Disturbance:
    """``what`` stands in the sentence behind the GPU and before the cells of its ``batches``. ``sure``: the serve's GPU."""

    gpu: int
    what: str
    sure: bool
    batches: list[Batch]


def _disturbances(watched: list[Batch]) -> list[_Disturbance]:
    """What went on, each with the batches that saw it, in the order in which it was seen first."""
    seen: defaultdict[tuple[int, str, bool], list[Batch]] = defaultdict(list)
    for batch in watched:
        for key in dict.fromkeys(_seen(batch)):
            seen[key].append(batch)
    return [_Disturbance(*key, batches) for key, batches in seen.items()]


def _seen(batch: Batch) -> Iterator[tuple[int, str, bool]]:
    for state in _states(batch):
        for pid, command in (state.foreign or {}).items():
            who = f"process {pid} ({command})" if command else f"process {pid}"
            yield state.gpu, f"{who} was on it beside the serve in", True
    for state in batch.row.gpus_after:
        for slowdown in state.slowdowns or ():
            yield state.gpu, f"{slowdown} after", state.foreign is not None


def _states(batch: Batch) -> list[GpuState]:
    return [*batch.row.gpus_before, *batch.row.gpus_after]


def _named(found: list[_Disturbance]) -> str:
    parts = [f"GPU {one.gpu}: {one.what} {names(one.batches)}" for one in found[:_SHOWN]]
    more = len(found) - _SHOWN
    return "; ".join([*parts, f"and {more} more"] if more > 0 else parts)


def _told(watched: list[Batch]) -> str:
    """What is known to have been quiet, and what is not known; empty when nothing is known."""
    states = [state for batch in watched for state in _states(batch)]
    clocks = any(state.slowdowns is not None for batch in watched for state in batch.row.gpus_after)
    processes = any(state.foreign is not None for state in states)
    if not clocks and not processes:
        return ""
    gpus = f"GPU {', '.join(map(str, sorted({state.gpu for state in states})))}"
    slowed = "not slowed down" if clocks else "NVML does not tell whether it was slowed down"
    return (
        f"{gpus}: {slowed}, {'nobody else computed there' if processes else 'whose processes are there cannot be told'}"
    )


def _readings(watched: list[Batch]) -> Iterator[str]:
    """What the GPUs read just after the batches: median clock with its range, median power, greatest temperature."""
    after = [state for batch in watched for state in batch.row.gpus_after]
    clocks = [state.sm_clock_mhz for state in after if state.sm_clock_mhz is not None]
    powers = [state.power_w for state in after if state.power_w is not None]
    heats = [state.temperature_c for state in after if state.temperature_c is not None]
    parts = [f"SM clock {median(clocks):,.0f} MHz ({min(clocks):,}-{max(clocks):,})"] if clocks else []
    parts += [f"{median(powers):.0f} W"] if powers else []
    parts += [f"at most {max(heats)} C"] if heats else []
    if parts:
        yield f"after a batch {', '.join(parts)}"
    capped = sum(any(state.power_capped for state in batch.row.gpus_after) for batch in watched)
    if capped:
        yield f"at the power limit after {capped} of {len(watched)} batches, which is normal at full load"
