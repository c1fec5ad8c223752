"""``--kernels`` on a real vLLM: what its processes report, and what a version without a table comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.targets.fake_serve import plugin

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.engine, pytest.mark.integration]
GATE = """
name: few
title: A few greedy replies
purpose: a gate that takes a second
workload: oracle
seed: 5
request: {endpoint: completions, max_tokens: 6, temperature: 0.0, salt: true, deadline_s: 60}
matrix: {words: [20], concurrency: [1]}
options: {prompts: 2, top_logprobs: 8, again: false}
warmup: {requests_per_cell: 0}
repeats: {count: 1}
rules:
  - {name: failures, kind: zero_failures}
"""


def gate(folder: Path, python: str, model: Path, kernels: str, path: list[Path]) -> tuple[int, dict[str, Any], str]:
    """(exit code, JSON document, stderr) of a gate on a launched vLLM whose interpreter also sees ``path``."""
    (folder / "few.yaml").write_text(GATE)
    env = {**os.environ, "DS4BENCH_HOME": str(ROOT), "PYTHONPATH": os.pathsep.join(map(str, [ROOT, *path]))}
    command = [sys.executable, "-m", "ds4bench.cli", "gate", "few.yaml", "--json", "--target", "vllm"]
    command += ["--model", str(model), "--serve-profile", "cpu", "--engine-python", python, "--kernels", kernels]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=400, check=False)
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def loaded(document: dict[str, Any]) -> dict[str, Any]:
    (check,) = [check for check in document["verdict"]["checks"] if check["name"] == "kernels_loaded"]
    return check


def test_an_environment_without_the_plugin_is_refused_at_once(
    engine_python: str, tiny_model: Path, tmp_path: Path
) -> None:
    code, _, err = gate(tmp_path, engine_python, tiny_model, "bundled", [])
    assert code == 2
    assert "has no plugin ds4_kernels for vllm" in err
    assert not list((tmp_path / ".ds4bench").rglob("serve.log"))


def test_a_version_without_a_table_is_refused_at_the_first_token(
    engine_python: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The plugin as installed: its code and the entry point."""
    plugged = [ROOT / "kernels", plugin(tmp_path)]
    code, document, err = gate(tmp_path, engine_python, tiny_model, "bundled", plugged)
    assert (code, document) == (2, {}), err
    assert "no bundled kernel was installed in any process (no table for vllm" in err
    assert "(known: 0.25.0, 0.33.0)" in err
    assert not list((tmp_path / ".ds4bench").rglob("run.json"))  # nothing was measured

    code, document, err = gate(tmp_path, engine_python, tiny_model, "engine", plugged)
    assert loaded(document)["status"] == "ok", err
    assert code == 0, err
    (launch,) = document["fingerprint"]["kernels"]["launches"]
    assert len(launch) >= 2  # the API server and a worker at least
