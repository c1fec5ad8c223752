"""Two nodes that are both this machine, the second reached through what stands for ssh; a look at what runs on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ds4bench.targets.preflight import free_port

SSH = Path(__file__).with_name("fake_ssh.py")
MARK = "MARK_OF_TEST"
"""Variable in the environment of a profile: its processes carry it, their children too."""


def cluster(python: str = sys.executable, head_remote: str = "sh -c {command}") -> dict[str, Any]:
    """The ``cluster`` of a profile, on two loopback addresses."""
    return {
        "remote": f"{python} {SSH} {{host}} {{command}}", "cluster_port": free_port(),
        "nodes": [
            {"node": "head", "host": "127.0.0.1", "gpus": 0, "remote": head_remote},
            {"node": "worker", "host": "127.0.0.2", "gpus": 0},
        ],
    }  # fmt: skip


def processes(mark: str) -> dict[int, str]:
    """Living processes whose ``MARK`` is this: pid -> command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found
