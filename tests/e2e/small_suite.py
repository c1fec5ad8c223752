"""Two small gates and a suite of them, run by the command in a process of its own. Wide margins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

HEAD = """
purpose: the long-context gate in small, for tests
workload: long_context
seed: 5
request: {max_tokens: 4, ignore_eos: true, deadline_s: 60}
matrix: {prompt_tokens: [480], concurrency: [1, 2]}
warmup: {requests_per_cell: 1}
validity: {machine_drift: 1.0, max_foreign_cpu_share: 1.0, max_client_lag_share_ttft: 0.9, max_client_lag_share_gap: 0.9}
"""
COMPARING = """
name: small
title: Small cold prompts
repeats: {count: 3}
rules:
  - {name: ttft, kind: ratio, metric: ttft_s, margin: 0.9, session_cv: 0.02}
  - {name: failures, kind: zero_failures}
"""
ABSOLUTE = """
name: bounded
title: Small cold prompts with a limit
repeats: {count: 1}
rules:
  - {name: ttft, kind: limit, measure: ttft_max_s, at_most: LIMIT}
"""
SUITE = """
name: mine
title: Two small gates
gates:
  - bounded.yaml
  - small.yaml
"""


def fill(folder: Path) -> Path:
    """The gates and the suite in a folder."""
    (folder / "small.yaml").write_text(HEAD + COMPARING)
    (folder / "bounded.yaml").write_text(HEAD + ABSOLUTE.replace("LIMIT", "1e-6"))
    (folder / "mine.yaml").write_text(SUITE)
    return folder


def start(folder: Path, *args: str, home: Path = ROOT) -> subprocess.Popen[str]:
    env = {**os.environ, "DS4BENCH_HOME": str(home)}
    command = [sys.executable, "-m", "ds4bench.cli", *args]
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(folder: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr)."""
    process = start(folder, *args, "--json")
    out, err = process.communicate(timeout=240)
    return process.returncode, json.loads(out) if out else {}, err


def batches(folder: Path, run_id: str) -> list[dict[str, Any]]:
    path = folder / ".ds4bench" / "runs" / run_id / "batches.jsonl"
    return [json.loads(row) for row in path.read_text().splitlines()] if path.exists() else []
