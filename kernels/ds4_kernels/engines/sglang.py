"""The entry point ``sglang.srt.plugins``: runs in every SGLang process before its modules are used.

The hooks go through SGLang's own ``HookRegistry``, as AROUND hooks. The registry imports what it patches; so that a process
pays only for what it uses, a hook is registered when SGLang itself imports the target's module. No CUDA call, no import of
a module that SGLang does not import.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import MutableMapping
from typing import Any

from ds4_kernels.engines.hook import Function, Hook, Table
from ds4_kernels.engines.hooks import arm, collect
from ds4_kernels.engines.report import say

ENGINE = "sglang"
VERSIONS = ("0.5.23",)
MODULES = ("attention", "indexer", "mhc")

_FLASHMLA, _BACKEND = "SGLANG_SM120_TRITON_FLASHMLA", "SGLANG_SM120_FLASHMLA_BACKEND"
_MQA = "SGLANG_SM120_MQA_FALLBACK"
_SEED_VARIABLES: dict[tuple[str, bool], dict[str, str]] = {
    (_FLASHMLA, True): {_BACKEND: "triton"},
    (_FLASHMLA, False): {_BACKEND: "torch"},
    (_MQA, True): {"SGLANG_FP8_PAGED_MQA_LOGITS_TORCH": "1", "SGLANG_OPT_USE_TILELANG_INDEXER": "0"},
}
"""(variable of the first SM12x patches, switched on) -> what means the same today. They chose SGLang's own fallbacks."""


def register() -> None:
    """Arm the hooks. Raises only with DS4_KERNELS_STRICT=1 (SGLang logs it and goes on)."""
    arm(ENGINE, _table_with_seed_variables, put=put_in_registry)


def table() -> Table:
    """Hooks by SGLang version, from every module of ``sglang_ops``."""
    return collect("ds4_kernels.engines.sglang_ops", MODULES, VERSIONS)


def _table_with_seed_variables() -> Table:
    map_seed_variables(os.environ)
    return table()


def put_in_registry(
    hook: Hook, owner: Any, name: str, original: Function, replacement: Function, engine: str
) -> list[str]:
    """Register the replacement as an AROUND hook and apply it; the registry finds what imported the original by value.

    Raises RuntimeError where another plugin hooks the target too: which of the two ran would depend on the order.
    """
    del owner, name, original, engine
    registry_module = importlib.import_module("sglang.srt.plugins.hook_registry")
    registry = registry_module.HookRegistry
    target = hook.target.replace(":", ".")
    if registry._hooks.get(target):
        raise RuntimeError("another plugin hooks it")

    def around(original_fn: Function, *args: Any, **kwargs: Any) -> Any:
        del original_fn  # the replacement has it
        return replacement(*args, **kwargs)

    source = registry_module.HookSource("ds4_kernels", "ds4-kernels")  # SGLang names it in its log
    registry.register(target, around, registry_module.HookType.AROUND, source=source)
    registry.apply_hooks()
    if target not in registry._patched:  # the registry logs what went wrong and goes on
        raise RuntimeError("SGLang's hook registry could not apply it")
    return []


def map_seed_variables(environ: MutableMapping[str, str]) -> None:
    """Translate the variables of the first SM12x patches, each with one line. What is set today wins."""
    for (old, on), today in _SEED_VARIABLES.items():
        value = environ.get(old)
        if value is None or (value.lower() not in ("0", "", "false")) is not on:
            continue
        new = {key: meaning for key, meaning in today.items() if key not in environ}
        environ.update(new)
        shown = " ".join(f"{key}={meaning}" for key, meaning in new.items()) or "nothing, as today's are set"
        say(ENGINE, f"{old}={value} is of an older SGLang; it becomes {shown}")
