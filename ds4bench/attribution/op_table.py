"""The ops that can be switched, in their groups: the op table of ``ds4-kernels``, cut to what an engine has hooks for."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence

from ds4bench.attribution.search import Group
from ds4bench.errors import SpecError

ALL = "all"


def switchable(engine: str, selection: str) -> list[Group]:
    """The groups for ``--ops``: ``all``, or a comma list of groups and ops. Raises SpecError for a name that is neither."""
    try:
        ops = importlib.import_module("ds4_kernels.ops")
    except ModuleNotFoundError as error:
        raise SpecError(
            f"attribute reads the op table and needs {error.name}: pip install 'ds4bench[embedded]'"
        ) from None
    try:
        chosen = set(ops.names(None if selection == ALL else selection))
    except ValueError as error:
        raise SpecError(f"--ops {selection}: {error}") from None
    hooked = _hooked(engine)
    groups = regrouped(chosen if hooked is None else chosen & hooked)
    if not groups:
        raise SpecError(f"--ops {selection}: ds4-kernels has no hook for any of them in {engine}")
    return groups


def regrouped(names: Collection[str]) -> list[Group]:
    """These ops in the order and the groups of the table."""
    table = importlib.import_module("ds4_kernels.ops").TABLE
    groups: dict[str, list[str]] = {}
    for op in table.values():
        if op.name in names:
            groups.setdefault(op.group, []).append(op.name)
    return [Group(name, tuple(members)) for name, members in groups.items()]


def parts_of(ops: Collection[str], table: Sequence[Group]) -> list[str]:
    """These ops for DS4_KERNELS_OPS: the name of a group that is there whole, else its ops."""
    parts: list[str] = []
    for group in table:
        inside = [op for op in group.ops if op in ops]
        parts += [group.name] if len(inside) == len(group.ops) > 1 else inside
    return parts


def described(ops: Collection[str], table: Sequence[Group]) -> str:
    """The same for a person, or what is left out where that is shorter: ``all but mhc_post``."""
    there = parts_of(ops, table)
    absent = parts_of([op for group in table for op in group.ops if op not in ops], table)
    if not absent:
        return "all ops"
    return f"all but {', '.join(absent)}" if len(absent) < len(there) else ", ".join(there)


def _hooked(engine: str) -> set[str] | None:
    """Ops that any version of the engine has a hook for; None for the embedded engine, which runs on the table itself."""
    if engine == "embedded":
        return None
    try:
        tables = importlib.import_module(f"ds4_kernels.engines.{engine}").table()  # imports no engine
    except (ModuleNotFoundError, AttributeError):
        raise SpecError(f"this ds4-kernels has no hooks for {engine}: update it beside ds4bench") from None
    return {hook.op for hooks in tables.values() for hook in hooks}
