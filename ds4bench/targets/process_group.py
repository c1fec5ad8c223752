"""Everything that a launch started, found again and ended: by process group, by session, and by a mark in the environment.

Workers of an engine may leave the group or the session (Ray does), but they inherit the environment. Standard library only,
because this file also runs by itself. As a guard it waits at a pipe and ends the group when the harness is killed. As a
watcher, its text sent to another machine, it runs a command there and ends it when the connection closes.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

MARK = "DS4BENCH_SERVE"
"""Environment variable that every process of a launch carries; its value is random for each launch."""
NODE_MARK = "DS4BENCH_NODE"
"""The same for what a watcher started, which may run beside processes of the launch on one machine."""

REAP_S = 5.0
"""How long a killed process is waited for: one that hangs in the kernel (a driver, a dead disk) may never end."""
_POLL_S = 0.05
_PROC = Path("/proc")
_STATE, _PARENT, _PGRP, _SESSION, _THREADS = 0, 1, 2, 3, 17
"""Fields of /proc/PID/stat behind the command's name (proc_pid_stat(5))."""


def members(group: int, mark: str) -> dict[int, str]:
    """Living processes of the launch: pid -> command line. Zombies do not count, nor does the caller."""
    found = {}
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _belongs(entry, group, mark):
            found[int(entry.name)] = _command(entry)
    return found


def started(pid: int, group: int, mark: str) -> bool:
    """Whether a living process is of the launch, or descends from one that is.

    A worker may have a session of its own and an environment that can no longer be read (who sets the title of its process
    writes over it); its ancestors still tell.
    """
    while pid > 1:
        if _belongs(_PROC / str(pid), group, mark):
            return True
        pid = _parent(pid)
    return False


def signal_all(group: int, mark: str, number: int, *, unreaped: bool) -> None:
    """Send a signal to the group and to every process of the launch that has left it.

    ``unreaped``: the group's first process is a child that its parent, the caller, has not reaped. Without that and without
    members the group's number may be somebody else's by now, and nothing is sent.
    """
    found = members(group, mark)
    if unreaped or found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)
    for pid in found:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) != group:
                os.kill(pid, number)


def end(group: int, mark: str, grace_s: float) -> dict[int, str]:
    """SIGTERM, then SIGKILL after ``grace_s``. Returns what still lives a moment later, usually nothing."""
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, REAP_S)):
        if not members(group, mark):
            break
        signal_all(group, mark, number, unreaped=False)
        deadline = time.monotonic() + patience_s
        while members(group, mark) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    return members(group, mark)


def _belongs(entry: Path, group: int, mark: str) -> bool:
    try:
        fields = _stat(entry)
        if _has_ended(fields):
            return False
        if group in (int(fields[_PGRP]), int(fields[_SESSION])):
            return True
        environment = (entry / "environ").read_bytes().split(b"\0")
        return any(f"{name}={mark}".encode() in environment for name in (MARK, NODE_MARK))
    except (OSError, ValueError, IndexError):
        return False


def _parent(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(_stat(_PROC / str(pid))[_PARENT])
    except (OSError, ValueError, IndexError):
        return 0


def _stat(entry: Path) -> list[str]:
    """Fields of a process's stat behind its name, which may hold spaces and brackets itself."""
    return (entry / "stat").read_text().rpartition(")")[2].split()


def _has_ended(fields: Sequence[str]) -> bool:
    """Whether a process only waits to be reaped; /proc says Z also of one whose first thread alone has ended."""
    return fields[_STATE] == "Z" and int(fields[_THREADS]) <= 1


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


def _watch(mark: str, grace_s: float, command: Sequence[str]) -> int:
    """Run the command until it ends by itself, standard input closes, or a signal comes; returns its exit code."""
    told_to_stop: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told_to_stop.append(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, env={**os.environ, NODE_MARK: mark}
        )
    except OSError as error:
        _say(f"cannot run {command[0]}: {error.strerror}")
        return 127
    while child.poll() is None and not told_to_stop and not _closed(sys.stdin.fileno()):
        pass
    code = _end_child(child, mark, grace_s)
    if code < 0 and not told_to_stop:
        _say(f"the process was ended by {signal.Signals(-code).name}")
    return code if code >= 0 else 128 - code


def _end_child(child: subprocess.Popen[bytes], mark: str, grace_s: float) -> int:
    """End the child and all that it left behind, and name what survives. Returns the child's exit code, that of SIGKILL for
    one that the kernel does not let go."""
    for pid, what in end(child.pid, mark, grace_s).items():
        _say(f"process {pid} survived SIGKILL ({what}); end it by hand")
    try:
        return child.wait(REAP_S)
    except subprocess.TimeoutExpired:
        return -signal.SIGKILL


def _closed(descriptor: int) -> bool:
    """Whether the other end has closed; waits a moment for it."""
    readable, _, _ = select.select([descriptor], [], [], _POLL_S)
    return bool(readable) and not os.read(descriptor, 4096)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may listen any more
        sys.stdout.write(f"ds4bench: {text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "watch":
        sys.exit(_watch(sys.argv[2], float(sys.argv[3]), sys.argv[4:]))
    _guard(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
