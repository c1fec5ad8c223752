"""What counts as a living process of a launch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ds4bench.targets import process_group
from tests.targets.fake_serve import gone_soon, runs

pytestmark = pytest.mark.integration

FIRST_THREAD_ENDS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.fixture
def half_dead() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose first thread has ended while another one sleeps: /proc calls it a zombie."""
    with subprocess.Popen(
        [sys.executable, "-c", FIRST_THREAD_ENDS], stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        while state(process.pid) != "Z":
            os.sched_yield()
        yield process
        process.kill()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_process_whose_first_thread_alone_has_ended_still_lives(half_dead: subprocess.Popen[bytes]) -> None:
    assert half_dead.poll() is None
    assert half_dead.pid in process_group.members(half_dead.pid, "no mark")
    assert runs(half_dead.pid)


def test_one_that_only_waits_to_be_reaped_does_not(half_dead: subprocess.Popen[bytes]) -> None:
    half_dead.kill()
    assert gone_soon(half_dead.pid)
    assert half_dead.pid not in process_group.members(half_dead.pid, "no mark")
    assert half_dead.poll() == -9
