"""Which configurations exist: every module below ``ds4_kernels.triton`` with a ``compile_cases`` function."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass

from ds4_kernels.compile_gate.rules import applies
from ds4_kernels.triton.compile_case import CompileCase


@dataclass(frozen=True)
class Task:
    """One configuration for one architecture."""

    case: CompileCase
    arch: str


def shipped_cases(package: str = "ds4_kernels.triton") -> list[CompileCase]:
    """All cases, in the order of modules and of their lists; a case that two modules list (one handing on the other's)
    counts once. What a module raises while it is imported is passed on."""
    root = importlib.import_module(package)
    cases: dict[tuple[str, str, str], list[CompileCase]] = {}
    for found in sorted(pkgutil.walk_packages(root.__path__, f"{package}."), key=lambda module: module.name):
        module = importlib.import_module(found.name)
        lister = getattr(module, "compile_cases", None)
        for case in lister() if lister is not None else ():
            same_name = cases.setdefault((case.op, case.config, case.tiles), [])
            if case not in same_name:
                same_name.append(case)
    return [case for same_name in cases.values() for case in same_name]


def select_ops(cases: Iterable[CompileCase], ops: Iterable[str]) -> list[CompileCase]:
    """Cases of the named ops (none named: all). Raises ValueError, with the names that exist, for an unknown op."""
    listed = list(cases)
    known = sorted({case.op for case in listed})
    wanted = set(ops)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise ValueError(f"no such op: {', '.join(unknown)}; there are: {', '.join(known)}")
    return [case for case in listed if not wanted or case.op in wanted]


def tasks_for(cases: Iterable[CompileCase], archs: Iterable[str]) -> list[Task]:
    """Every case on every architecture that ships it."""
    targets = list(archs)
    return [Task(case, arch) for case in cases for arch in targets if applies(case, arch)]


def subset(cases: Iterable[CompileCase], seed: int) -> list[CompileCase]:
    """Two cases of every kernel: the one with the largest tile, and one of the others that ``seed`` rotates.

    Variants of a kernel for another tile set or another MMA count as kernels of their own. Deterministic.
    """
    groups: dict[tuple[object, ...], list[CompileCase]] = {}
    for case in cases:
        groups.setdefault((case.op, kernel_name(case), case.tiles, case.mma), []).append(case)
    chosen: list[CompileCase] = []
    for group in groups.values():
        largest = max(group, key=tile_size)
        chosen.append(largest)
        others = [case for case in group if case is not largest]
        if others:
            chosen.append(others[seed % len(others)])
    return chosen


def tile_size(case: CompileCase) -> int:
    """A number that grows with the shared memory a configuration looks to need: block sizes times stages."""
    sizes = {name: value for name, value in case.constexprs.items() if type(value) is int and value > 1}
    blocks = [value for name, value in sizes.items() if "BLOCK" in name.upper() or "TILE" in name.upper()]
    return math.prod(blocks or sizes.values()) * case.num_stages


def kernel_name(case: CompileCase) -> str:
    """The kernel's Python name."""
    return str(getattr(case.kernel, "__name__", case.kernel))
