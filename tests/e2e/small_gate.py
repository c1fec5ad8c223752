"""A small cold gate on the embedded engine, run by the command in a process of its own.

540-token prompts at c = 1 and 2 keep it quick. Its margin is wide (60 %), because these tests run on whatever machine is busy
with other tests; the promoted profiles' margins are what `ds4bench gate` is for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

GATE = """
name: small
title: Small cold prompts
purpose: the long-context gate in small, for tests
workload: long_context
seed: 5
request: {max_tokens: 24, ignore_eos: true, thinking: false, deadline_s: 60}
matrix: {prompt_tokens: [540], concurrency: [1, 2]}
warmup: {requests_per_cell: 1}
repeats: {count: 3}
validity: {machine_drift: 1.0, max_foreign_cpu_share: 1.0, max_client_lag_share_ttft: 0.9, max_client_lag_share_gap: 0.9}
rules:
  - {name: ttft, kind: ratio, metric: ttft_s, margin: 0.6, per_cell_margin: 2.0, session_cv: 0.02}
  - {name: failures, kind: zero_failures}
  - {name: recall, kind: recall, threshold: 0.9}
"""


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "OPENAI_API_KEY": "sk-secret-in-the-environment"}
    command = [sys.executable, "-m", "ds4bench.cli", "gate", "small.yaml", *args]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def gate(folder: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr)."""
    process = start(folder, "--json", *args)
    out, err = process.communicate(timeout=240)
    return process.returncode, json.loads(out) if out else {}, err


def newest_run(folder: Path) -> Path | None:
    runs = folder / ".ds4bench" / "runs"
    return max(runs.iterdir(), key=lambda p: p.stat().st_ctime, default=None) if runs.is_dir() else None


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition: Any, process: subprocess.Popen[str], what: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.05)


def measured(folder: Path) -> int:
    """Complete measured batches of the newest run."""
    run = newest_run(folder)
    return 0 if run is None else sum(b["phase"] == "measure" for b in lines(run / "batches.jsonl"))


def child_of(pid: int) -> int:
    """The process that ``pid`` launched."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])
