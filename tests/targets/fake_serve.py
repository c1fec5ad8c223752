"""What tests of launched engines share: a profile with ``fake_engine.py``, the tool as a process, a look at /proc."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAKE = Path(__file__).with_name("fake_engine.py")

PROFILE = f"""
name: fake
title: a process that stands for an engine
engine: vllm
kind: launch
command: ['{{python}}', '{FAKE}', '{{model}}', --port, '{{port}}']
validity_flags: {{enable-prompt-tokens-details: true}}
ready_deadline_s: 20
grace_s: 0.5
"""
GATE = """
name: small
title: Small prompts
purpose: a gate that a fake engine can answer
workload: long_context
seed: 5
request: {max_tokens: 3, deadline_s: 20}
matrix: {prompt_tokens: [300], concurrency: [1]}
warmup: {requests_per_cell: 1}
repeats: {count: 8}
rules:
  - {name: failures, kind: zero_failures}
"""


def plugin(folder: Path) -> Path:
    """What is left on the path where ds4-kernels is installed beside vLLM: its entry point."""
    info = folder / "installed" / "ds4_kernels-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ds4-kernels\nVersion: 0.1.0\n")
    entry = "[vllm.general_plugins]\nds4_kernels = ds4_kernels.engines.vllm:register\n"
    (info / "entry_points.txt").write_text(entry)
    return info.parent


def kernel_report(**changes: object) -> str:
    """What a process tells whose plugin has put one bundled kernel in place, which ran."""
    hook = {"hook": "mhc_post@f", "op": "mhc_post", "group": "mhc", "state": "installed", "calls": 3}
    told = {"schema": "ds4-kernels.report/1", "pid": 0, "process": "p", "engine": "vllm", "mode": "force"}
    return json.dumps({**told, "hooks": [hook], **changes})


def runs(pid: int) -> bool:
    """Whether the process runs; one that only waits for its parent to reap it (no thread but a dead one) does not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" or int(fields[17]) > 1


def gone_soon(*pids: int) -> bool:
    deadline = time.monotonic() + 15
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(runs(pid) for pid in pids)


def fake_processes(folder: Path) -> list[int]:
    """Processes of a fake engine launched from this test's folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if (
                entry.name.isdigit()
                and str(FAKE).encode() in (entry / "cmdline").read_bytes()
                and runs(int(entry.name))
            ):
                found += [int(entry.name)] if (entry / "cwd").resolve() == folder.resolve() else []
        except OSError:
            continue
    return found


def ds4bench(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT)}
    command = [sys.executable, "-m", "ds4bench.cli", *args]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
