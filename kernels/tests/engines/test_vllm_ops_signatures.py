"""Every adapter takes the parameters that its hook expects of vLLM (``test_sources`` holds those against the wheels)."""

from __future__ import annotations

import inspect

import pytest
from ds4_kernels import ops
from ds4_kernels.engines.hook import Hook
from ds4_kernels.engines.vllm_ops import cache, einsum, indexer, mhc, moe, w8a8

ROWS = [
    pytest.param(version, hook, id=f"{version} {hook.name}")
    for module in (cache, einsum, indexer, mhc, moe, w8a8)
    for version, hooks in module.HOOKS.items()
    for hook in hooks
]


def original(*args: object, **kwargs: object) -> None:
    """Stands for the engine's function where an adapter only keeps it."""


@pytest.mark.parametrize(("version", "hook"), ROWS)
def test_adapter_takes_the_engines_arguments_by_position_and_by_name(version: str, hook: Hook) -> None:
    signature = inspect.signature(hook.factory(original))
    names = list(signature.parameters)
    assert tuple(names[: len(hook.parameters)]) == hook.parameters
    extra = [signature.parameters[name] for name in names[len(hook.parameters) :]]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in extra)  # of a later version
    assert hook.op in ops.TABLE and set(hook.writes) <= set(hook.parameters)


def test_names_are_unique_in_a_version() -> None:
    for version in ("0.25.0", "0.33.0"):
        names = [hook.name for param in ROWS for found, hook in [param.values] if found == version]
        assert len(names) == len(set(names))
