"""How fast this machine's cores are right now: a fixed piece of work on each of them.

On a shared machine a neighbour may sit on the other half of one of our cores: for tens of milliseconds at a time that core
takes 1.6 times as long, and no counter (steal, load) tells. A serve with a thread a core waits for the slowest, so every
core is asked, and the mean is taken, not the best: which of two rounds was lucky says nothing about a batch of seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from statistics import fmean

_ROUNDS = 3
_STEPS = 120_000
_MOST_CORES = 8
"""More cores are not asked: it is time in which nothing is measured (40 ms a core)."""


def cpu_probe_ms() -> float:
    """Milliseconds of a fixed piece of single-thread work, the mean over (at most 8 of) the cores that we may use.

    The first round on a core wakes it up and does not count. The caller's affinity is as before afterwards.
    """
    if not hasattr(os, "sched_setaffinity"):
        return _rounds()
    usable = os.sched_getaffinity(0)
    try:
        return fmean(_on(core) for core in spread(sorted(usable), _MOST_CORES))
    finally:
        os.sched_setaffinity(0, usable)


def spread(cores: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread."""
    count = min(len(cores), most)
    return [cores[number * len(cores) // count] for number in range(count)]


def _on(core: int) -> float:
    os.sched_setaffinity(0, {core})
    return _rounds()


def _rounds() -> float:
    _once()
    return fmean(_once() for _ in range(_ROUNDS))


def _once() -> float:
    started = time.perf_counter()
    value = 1
    for step in range(_STEPS):
        value = (value * 1_103_515_245 + step) & 0xFFFFFFFF
    return (time.perf_counter() - started) * 1000
