"""A real vLLM on a CPU: its interpreter comes from ``make test-engine``, its model is made here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def engine_python() -> str:
    """The interpreter that has vLLM, named by DS4BENCH_TEST_VLLM_PYTHON; skips without it."""
    python = os.environ.get("DS4BENCH_TEST_VLLM_PYTHON")
    if not python:
        pytest.skip("DS4BENCH_TEST_VLLM_PYTHON names no interpreter with vLLM; `make test-engine` sets one up")
    return python


@pytest.fixture(scope="session")
def tiny_model(engine_python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model with random weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    script = Path(__file__).with_name("make_tiny_model.py")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([engine_python, str(script), str(folder)], check=True, env=env, timeout=120, capture_output=True)
    return folder
