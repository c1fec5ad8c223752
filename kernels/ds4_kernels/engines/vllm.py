"""The entry point ``vllm.general_plugins``: runs in every vLLM process before the model is imported.

It reads the environment, checks the version and arms the hooks: no CUDA call, no import of an engine module.
"""

from __future__ import annotations

from ds4_kernels.engines.hook import Table
from ds4_kernels.engines.hooks import arm, collect

ENGINE = "vllm"
VERSIONS = ("0.25.0", "0.33.0")
MODULES = ("attention", "cache", "indexer", "einsum", "mhc", "moe", "w8a8")


def register() -> None:
    """Arm the hooks. Raises only with DS4_KERNELS_STRICT=1."""
    arm(ENGINE, table)


def table() -> Table:
    """Hooks by vLLM version, from every module of ``vllm_ops``."""
    return collect("ds4_kernels.engines.vllm_ops", MODULES, VERSIONS)
