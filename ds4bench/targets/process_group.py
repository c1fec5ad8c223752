"""Everything that a launch started, found again and ended: by process group, by session, and by a mark in the environment.

Workers of an engine may leave the group or the session (Ray does), but they inherit the environment. Standard library only,
because a guard runs this file by itself: it waits at a pipe and ends the group when the harness is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "DS4BENCH_SERVE"
"""Environment variable that every process of a launch carries; its value is random for each launch."""

_POLL_S = 0.05
_PROC = Path("/proc")


def members(group: int, mark: str) -> dict[int, str]:
    """Living processes of the launch: pid -> command line. Zombies do not count, nor does the caller."""
    found = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _belongs(entry, group, mark):
            found[int(entry.name)] = _command(entry)
    return found


def signal_all(group: int, mark: str, number: int) -> None:
    """Send a signal to the group and to every process of the launch that has left it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
    for pid in members(group, mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != group:
                os.kill(pid, number)


def end(group: int, mark: str, grace_s: float) -> dict[int, str]:
    """SIGTERM, then SIGKILL after ``grace_s``. Returns what still lives a moment later, usually nothing."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        if not members(group, mark):
            break
        signal_all(group, mark, number)
        deadline = time.monotonic() + patience_s
        while members(group, mark) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    return members(group, mark)


def _belongs(entry: Path, group: int, mark: str) -> bool:
    try:
        state, _, pgrp, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        if state == "Z":
            return False
        if group in (int(pgrp), int(session)):
            return True
        return f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False


def _command(entry: Path) -> str:
    with contextlib.suppress(OSError):
        words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return words or (entry / "comm").read_text().strip()
    return "?"


def _guard(group: int, mark: str, grace_s: float) -> None:
    """Wait for the harness: a byte says that it has stopped the serve itself, the end of the pipe that it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not sys.stdin.buffer.read(1):
        end(group, mark, grace_s)


if __name__ == "__main__":
    _guard(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
