"""What the plugin would replace in an engine that another interpreter has, read from files: for ``ds4-kernels doctor``."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ds4_kernels.engines import sources
from ds4_kernels.engines.hook import Hook, Table

TIMEOUT_S = 60.0
_LOCATE = """
import importlib.metadata, importlib.util, sys
spec = importlib.util.find_spec(sys.argv[1])
print(importlib.metadata.version(sys.argv[1]).partition("+")[0])
print(list(spec.submodule_search_locations)[0] if spec else "")
entries = importlib.metadata.entry_points(group=sys.argv[2])
print(",".join(entry.name for entry in entries))
"""


@dataclass(frozen=True)
class Engine:
    """An installed engine: ``root`` holds its package, ``plugins`` are the entry points of the plugin group."""

    name: str
    version: str
    root: Path
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """One hook: whether the engine's source has the function as the table says; ``problem`` is empty when it does."""

    op: str
    target: str
    problem: str


def locate(python: str, engine: str, group: str) -> Engine:
    """Ask an interpreter where its engine is (importing nothing of it). Raises RuntimeError with the reason."""
    try:
        done = subprocess.run(
            [python, "-c", _LOCATE, engine, group], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"cannot run {python}: {error}") from None
    lines = done.stdout.splitlines()
    if done.returncode or len(lines) < 2 or not lines[1]:
        why = (done.stderr.strip().splitlines() or ["no package folder"])[-1]
        raise RuntimeError(f"{python} has no {engine}: {why}")
    plugins = tuple(filter(None, lines[2].split(","))) if len(lines) > 2 else ()
    return Engine(engine, lines[0], Path(lines[1]).parent, plugins)


def survey(table: Table, version: str, root: Path) -> list[Finding]:
    """Check every hook of a version against the source under ``root``; [] for a version without a table."""
    return [Finding(hook.op, hook.target, problem(hook, root)) for hook in _rows(table, version)]


def problem(hook: Hook, root: Path) -> str:
    """Why a hook would be skipped; empty when it would be installed."""
    try:
        names = sources.parameters(root, hook.target)
    except sources.SourceError as error:
        return str(error)
    if names == hook.parameters:
        return ""
    return f"signature ({', '.join(names)}), expected ({', '.join(hook.parameters)})"


def _rows(table: Table, version: str) -> Sequence[Hook]:
    return table.get(version, ())
