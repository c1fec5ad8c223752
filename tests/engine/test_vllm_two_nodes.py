"""vLLM's own processes over two nodes that are both this machine: TP 2 with ``--nnodes 2``, one reached as through ssh."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.targets import two_nodes

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.integration]

GATE = """
name: small
title: Small prompts
purpose: a gate that two nodes answer together
workload: long_context
seed: 5
request: {max_tokens: 8, deadline_s: 300}
matrix: {prompt_tokens: [300], concurrency: [1]}
warmup: {requests_per_cell: 1}
repeats: {count: 200}
rules:
  - {name: failures, kind: zero_failures}
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """The profile that comes along, on a CPU and on two loopback addresses."""
    absent = ("tokenizer-mode", "tool-call-parser", "enable-auto-tool-choice", "reasoning-parser", "reasoning-config",
              "kv-cache-dtype", "gpu-memory-utilization")  # fmt: skip
    mine = {
        "name": "two", "title": "two nodes here", "engine": "vllm", "kind": "launch", "extends": "vllm-gb10-2node-mp",
        "flags": {
            **dict.fromkeys(absent), "dtype": "float32", "max-model-len": 4096, "block-size": 32, "enforce-eager": True,
        },
        "cluster": two_nodes.cluster(),
        "environment": {
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
            "NCCL_SOCKET_IFNAME": "lo", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", two_nodes.MARK: str(tmp_path),
            "HOME": str(Path.home()),
        },
        "ready_deadline_s": 300, "grace_s": 20,
    }  # fmt: skip
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(mine))
    (tmp_path / "small.yaml").write_text(GATE)
    return path


def test_a_gate_on_two_nodes_measures_until_one_of_them_dies(
    engine_python: str, tiny_model: Path, profile: Path, tmp_path: Path
) -> None:
    serve = ["--target", "vllm", "--model", str(tiny_model), "--engine-python", engine_python]
    command = [
        sys.executable,
        "-m",
        "ds4bench.cli",
        "gate",
        "small.yaml",
        *serve,
        "--serve-profile",
        str(profile),
        "--json",
    ]
    log = tmp_path / "stderr"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "DS4BENCH_HOME": str(ROOT)}, text=True, stdout=subprocess.PIPE,
            stderr=stderr,
        )  # fmt: skip
    try:
        _wait_for_rows(tmp_path, process, 4)
        lines = two_nodes.processes(str(tmp_path))
        [worker] = [pid for pid, line in lines.items() if "--headless" in line and "watch" not in line]
        os.kill(worker, signal.SIGKILL)
        out, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 3, log.read_text()[-2000:]
    verdict = json.loads(out)["verdict"]
    assert verdict["verdict"] == "INVALID"
    assert "the vllm worker on node worker (127.0.0.2) ended with exit code 137" in verdict["sentence"]
    assert any(row["result"]["ok"] and row["result"]["completion_tokens"] == 8 for row in _rows(tmp_path))
    assert two_nodes.processes(str(tmp_path)) == {}


def _rows(folder: Path) -> list[dict[str, dict[str, object]]]:
    return [
        json.loads(line)
        for path in folder.glob(".ds4bench/runs/*/requests.jsonl")
        for line in path.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


def _wait_for_rows(folder: Path, process: subprocess.Popen[str], count: int) -> None:
    deadline = time.monotonic() + 300
    while len(_rows(folder)) < count:
        assert process.poll() is None, (folder / "stderr").read_text()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
