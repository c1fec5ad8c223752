"""Environment variables: the only place that reads them."""

from __future__ import annotations

import os
from pathlib import Path

HOME = "DS4BENCH_HOME"
STATE_DIR = "DS4BENCH_STATE_DIR"
API_KEY = "DS4BENCH_API_KEY"
_SECRETS = [API_KEY, "OPENAI_API_KEY", "DEEPSEEK_API_KEY", "HF_TOKEN"]


def home() -> Path | None:
    """Folder with gates/, prompts/ and results/, if ``DS4BENCH_HOME`` names one."""
    value = os.environ.get(HOME)
    return Path(value) if value else None


def state_dir() -> Path | None:
    """Where runs and local baselines are kept, if ``DS4BENCH_STATE_DIR`` says."""
    value = os.environ.get(STATE_DIR)
    return Path(value) if value else None


def api_key() -> str | None:
    """Key for a serve that wants one. Never written anywhere."""
    return os.environ.get(API_KEY) or None


def key(name: str) -> str | None:
    """A key from the variable that a target profile names; from then on it is a secret. Never written anywhere."""
    if name not in _SECRETS:
        _SECRETS.append(name)
    return os.environ.get(name) or None


def kernel_ops() -> str | None:
    """``DS4_KERNELS_OPS`` of this shell, which a launched serve would inherit."""
    return os.environ.get("DS4_KERNELS_OPS")


def secrets() -> list[str]:
    """Values that must never reach an artifact."""
    return [value for name in _SECRETS if len(value := os.environ.get(name, "")) >= 8]
