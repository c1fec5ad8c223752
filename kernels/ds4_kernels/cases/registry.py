"""Finds the cases of all areas."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from ds4_kernels import cases, ops
from ds4_kernels.cases.base import BenchCase, CheckCase


def check_cases(selected: list[str], *, large: bool) -> list[CheckCase]:
    """The check cases of the ops, in the order of the op table; without ``large`` those for the interpreter alone."""
    found = [case for module in _modules() for case in module.check_cases() if case.op in selected]
    return _ordered([case for case in found if large or "large" not in case.label])


def bench_cases(selected: list[str]) -> list[BenchCase]:
    """The timings of the ops, in the order of the op table."""
    return _ordered([case for module in _modules() for case in module.bench_cases() if case.op in selected])


def _ordered(found: list[Any]) -> list[Any]:
    order = {name: position for position, name in enumerate(ops.TABLE)}
    return sorted(found, key=lambda case: order[case.op])


def _modules() -> Iterator[Any]:
    for info in pkgutil.iter_modules(cases.__path__):
        module = importlib.import_module(f"{cases.__name__}.{info.name}")
        if hasattr(module, "check_cases") and module.__name__ != __name__:
            yield module
