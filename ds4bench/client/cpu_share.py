"""How much CPU other processes take while something is measured, from Linux's own accounting."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_IDLE_FIELDS = (3, 4)  # idle, iowait of the `cpu` line
_GUEST_FIELDS = (8, 9)  # already part of user and nice


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds since boot: of everything on the machine (stolen time included), and of the processes we know."""

    busy_s: float
    own_s: float


def read_cpu_times(pids: Iterable[int]) -> CpuTimes | None:
    """CPU seconds now; ``pids`` are our own processes. None where the system does not tell, or one is gone."""
    try:
        fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        own = sum(_process_ticks(pid) for pid in pids)
    except (OSError, ValueError, IndexError):
        return None
    busy = sum(v for i, v in enumerate(fields) if i not in (*_IDLE_FIELDS, *_GUEST_FIELDS))
    return CpuTimes(busy * _TICK_S, own * _TICK_S)


def foreign_cores(before: CpuTimes | None, after: CpuTimes | None, wall_s: float) -> float | None:
    """Cores that other processes kept busy on average, kernel threads and a hypervisor's other guests included."""
    if before is None or after is None or wall_s <= 0:
        return None
    others = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return max(0.0, others / wall_s)


def _process_ticks(pid: int) -> int:
    """utime + stime of all threads (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
