"""The entry point ``vllm.general_plugins``: runs in every vLLM process before the model is imported.

It reads the environment, checks the version and arms the hooks: no CUDA call, no import of an engine module.
"""

from __future__ import annotations

import importlib
import os

from ds4_kernels import env
from ds4_kernels.engines.hook import Hook, Table
from ds4_kernels.engines.hooks import install
from ds4_kernels.engines.report import say

ENGINE = "vllm"
VERSIONS = ("0.25.0", "0.33.0")
MODULES = ("attention", "cache", "indexer", "einsum", "mhc", "moe", "w8a8")


def register() -> None:
    """Arm the hooks. Raises only with DS4_KERNELS_STRICT=1."""
    try:
        install(ENGINE, table())
    except Exception as error:
        if os.environ.get(env.STRICT) == "1":
            raise
        say(ENGINE, f"nothing is replaced: {type(error).__name__}: {error}")


def table() -> Table:
    """Hooks by vLLM version, from every module of ``vllm_ops``."""
    found: dict[str, list[Hook]] = {version: [] for version in VERSIONS}
    for name in MODULES:
        hooks: Table = importlib.import_module(f"ds4_kernels.engines.vllm_ops.{name}").HOOKS
        for version, rows in hooks.items():
            found[version] += rows
    return found
