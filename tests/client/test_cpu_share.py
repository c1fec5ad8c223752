"""CPU of other processes, from real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ds4bench.client import cpu_share
from ds4bench.client.cpu_share import CpuTimes, foreign_cores, read_cpu_times

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's accounting")  # noqa: PTH110

SPIN = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"
PARENT = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {SPIN!r}])"
STAT = "cpu  1 1 1 1 1 1 1 1 1 1\ncpu0 100 10 5 900 50 1 2 3 60 0\ncpu1 40 0 0 0 0 0 0 0 0 0\nintr 5 0\n"


def test_a_spinning_process_is_ours_even_as_a_grandchild_and_foreign_otherwise() -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True)
    sibling = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        time.sleep(0.5)
        ours, others = read_cpu_times([os.getpid()]), read_cpu_times([sibling.pid])
        time.sleep(1.5)
        rest = foreign_cores(ours, read_cpu_times([os.getpid()]))
        foreign = foreign_cores(others, read_cpu_times([sibling.pid]))
    finally:
        os.killpg(process.pid, 9)
        for child in (process, sibling):
            child.kill()
            child.wait()
    assert foreign is not None and rest is not None
    assert foreign > 0.2
    assert foreign - rest > 0.2


def test_only_cpus_that_our_processes_may_use_count() -> None:
    assert cpu_share._busy_ticks(STAT, {0}) == 100 + 10 + 5 + 1 + 2 + 3  # neither idle nor iowait nor guest
    assert cpu_share._busy_ticks(STAT, {1}) == 40
    assert cpu_share._busy_ticks(STAT, {0, 1}) == 161
    with pytest.raises(ValueError, match="cpu7"):
        cpu_share._busy_ticks(STAT, {0, 7})


def test_what_a_pinned_process_is_told_are_its_own_cpus() -> None:
    usable = sorted(os.sched_getaffinity(0))
    code = (
        f"import os, sys; os.sched_setaffinity(0, {{{usable[0]}}})\n"
        "from ds4bench.client import cpu_share\n"
        "seen = []\n"
        "cpu_share._busy_ticks = lambda stat, cpus: seen.append(cpus) or 0\n"
        "cpu_share.read_cpu_times([os.getpid()]); print(seen)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[{{{usable[0]}}}]"


def test_a_process_that_came_in_between_counts_from_its_start() -> None:
    before = CpuTimes(10.0, 100.0, {1: 5.0, 2: 7.0})
    after = CpuTimes(20.0, 130.0, {1: 15.0, 3: 4.0})
    assert foreign_cores(before, after) == pytest.approx((30 - 10 - 4) / 10)
    assert foreign_cores(before, before) is None


def test_a_process_that_is_gone_gives_no_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_cpu_times([process.pid]) is None
    assert foreign_cores(None, read_cpu_times([os.getpid()])) is None
