"""Environment variables: the only place that reads them."""

from __future__ import annotations

import os
from pathlib import Path

from ds4bench.errors import TargetError

HOME = "DS4BENCH_HOME"
STATE_DIR = "DS4BENCH_STATE_DIR"
API_KEY = "DS4BENCH_API_KEY"
_SECRETS = [API_KEY, "OPENAI_API_KEY", "DEEPSEEK_API_KEY", "HF_TOKEN", "VLLM_API_KEY"]
_SECRET_ENDS = ("_API_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
_SHORTEST = 8
"""Characters; a shorter value would be found in words that are none of its business."""
_kept: list[str] = []


def home() -> Path | None:
    """Folder with gates/, prompts/ and results/, if ``DS4BENCH_HOME`` names one."""
    value = os.environ.get(HOME)
    return Path(value) if value else None


def state_dir() -> Path | None:
    """Where runs and local baselines are kept, if ``DS4BENCH_STATE_DIR`` says."""
    value = os.environ.get(STATE_DIR)
    return Path(value) if value else None


def api_key() -> str | None:
    """Key for a serve that wants one. Never written anywhere. Raises TargetError for one that cannot be sent."""
    return _usable(API_KEY)


def key(name: str) -> str | None:
    """A key from the variable that a target profile names; from then on it is a secret. Never written anywhere."""
    if name not in _SECRETS:
        _SECRETS.append(name)
    return _usable(name)


def _usable(name: str) -> str | None:
    """A key without the line end that a file or a paste leaves. Raises TargetError where it cannot stand in a header."""
    value = os.environ.get(name, "").strip()
    if not (value.isascii() and value.isprintable()):
        raise TargetError(f"the key in {name} holds characters that no HTTP header can: export it again")
    return value or None


def kernel_ops() -> str | None:
    """``DS4_KERNELS_OPS`` of this shell, which a launched serve would inherit."""
    return os.environ.get("DS4_KERNELS_OPS")


def is_secret(name: str) -> bool:
    """Whether a variable of this name holds a key."""
    return name in _SECRETS or name.endswith(_SECRET_ENDS)


def keep_secret(value: str) -> None:
    """Count a key that came from somewhere else among the values that must never reach an artifact."""
    if value not in _kept:
        _kept.append(value)


def secrets() -> list[str]:
    """Values that must never reach an artifact."""
    values = [*(os.environ.get(name, "").strip() for name in _SECRETS), *_kept]
    return [value for value in values if len(value) >= _SHORTEST]


def without_secrets(text: str) -> str:
    """The text with every such value hidden."""
    for value in secrets():
        text = text.replace(value, "***")
    return text
