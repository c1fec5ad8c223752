"""CPU of other processes, from real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from ds4bench.client.cpu_share import foreign_cores, read_cpu_times

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="needs Linux's accounting")  # noqa: PTH110

SPIN = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"


def test_a_spinning_process_is_foreign_unless_it_is_ours() -> None:
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        time.sleep(0.3)
        started = time.monotonic()
        others = read_cpu_times([os.getpid()])
        ours = read_cpu_times([os.getpid(), process.pid])
        time.sleep(1.5)
        wall = time.monotonic() - started
        foreign = foreign_cores(others, read_cpu_times([os.getpid()]), wall)
        rest = foreign_cores(ours, read_cpu_times([os.getpid(), process.pid]), wall)
    finally:
        process.kill()
        process.wait()
    assert foreign is not None
    assert rest is not None
    assert foreign > 0.2
    assert foreign - rest > 0.2


def test_a_process_that_is_gone_gives_no_number() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert read_cpu_times([process.pid]) is None
    assert foreign_cores(None, read_cpu_times([os.getpid()]), 1.0) is None
