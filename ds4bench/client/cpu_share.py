"""How much CPU other processes take while something is measured, from Linux's own accounting.

Only the CPUs that our processes may run on count (their affinity): what happens on the others takes nothing from them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01
_IDLE_FIELDS = (3, 4)  # idle, iowait of a `cpuN` line
_GUEST_FIELDS = (8, 9)  # already part of user and nice


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds at an instant ``at_s`` of the monotonic clock: since boot of everything on the CPUs that we may use
    (stolen time included), and since its start of each of our processes."""

    at_s: float
    busy_s: float
    own_s: dict[int, float]


def read_cpu_times(pids: Iterable[int]) -> CpuTimes | None:
    """CPU seconds now; ``pids`` and whatever descends from them are our own processes.

    None where the system does not tell, or where one of ``pids`` is gone.
    """
    roots = list(pids)
    try:
        usable = {cpu for pid in roots for cpu in os.sched_getaffinity(pid)}
        own = {pid: _process_ticks(pid) * _TICK_S for pid in roots}
        busy = _busy_ticks(Path("/proc/stat").read_text(), usable) * _TICK_S
    except (OSError, ValueError, IndexError, AttributeError):  # AttributeError: no affinity on this system
        return None
    for pid in _descendants(roots) - own.keys():
        try:
            own[pid] = _process_ticks(pid) * _TICK_S
        except (OSError, ValueError, IndexError):  # ended meanwhile
            continue
    return CpuTimes(time.monotonic(), busy, own)


def foreign_cores(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Of the CPUs that we may use, how many others kept busy on average: processes, the kernel, a hypervisor's guests."""
    if before is None or after is None or after.at_s <= before.at_s:
        return None
    own = sum(used - before.own_s.get(pid, 0.0) for pid, used in after.own_s.items())
    return max(0.0, (after.busy_s - before.busy_s - own) / (after.at_s - before.at_s))


def _busy_ticks(stat: str, usable: set[int]) -> int:
    """Ticks that these CPUs were not idle, from the text of /proc/stat. Raises ValueError if one is not there."""
    ticks, missing = 0, {f"cpu{number}" for number in usable}
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in missing:
            missing.remove(name)
            ticks += sum(int(v) for i, v in enumerate(fields) if i not in (*_IDLE_FIELDS, *_GUEST_FIELDS))
    if missing:
        raise ValueError(f"/proc/stat does not name {', '.join(sorted(missing))}")
    return ticks


def _process_ticks(pid: int) -> int:
    """utime + stime of all threads (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def _descendants(roots: Iterable[int]) -> set[int]:
    """Children, their children and so on; nothing where the kernel keeps no lists of children."""
    found: set[int] = set()
    queue = list(roots)
    while queue:
        pid = queue.pop()
        try:
            lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        except OSError:  # ended meanwhile
            continue
        new = {int(child) for text in lists for child in text.split()} - found
        found |= new
        queue += new
    return found
