"""What a suite has done so far, one file a suite run: enough to go on after a kill. Rows stay in the gates' run folders."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ds4bench import env
from ds4bench.errors import StoreError
from ds4bench.paths import state_dir
from ds4bench.store import documents

SCHEMA = 1
FILE = "suite.json"


class SuiteGate(msgspec.Struct, kw_only=True):
    """One gate: the runs that it has begun, and whether they need nothing more.

    ``skipped`` says why the serve cannot run it, ``refused`` why its rules could not judge it.
    """

    gate: str
    profile: str
    baseline_run: str | None = None
    run: str | None = None
    done: bool = False
    skipped: str | None = None
    refused: str | None = None
    seconds: float = 0.0


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What a suite has sent to an API that costs, and what that can have cost at most, in the price table's currency."""

    requests: int = 0
    refused: int = 0
    spent: float = 0.0


class SuiteRun(msgspec.Struct, kw_only=True):
    """``suite.json``: the suite, what it was asked with, and its gates in order."""

    schema: int
    run_id: str
    suite: str
    baseline: str
    asked: dict[str, object]
    gates: list[SuiteGate]
    died: str | None = None  # why the serve was lost, when it was
    spending: Spending | None = None


def suites_dir() -> Path:
    """Where suite runs are kept."""
    return state_dir() / "suites"


def folder_of(run_id: str) -> Path:
    """The folder of a suite run; need not exist."""
    return suites_dir() / run_id


def save(run: SuiteRun) -> None:
    """Write the state whole or not at all, without keys."""
    folder = folder_of(run.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    documents.write_whole(folder / FILE, env.without_secrets(documents.encode(run).decode()).encode())


def load(run_id: str) -> SuiteRun:
    """Read it back. Raises StoreError for an unknown or damaged one."""
    try:
        return documents.read(folder_of(run_id) / FILE, SuiteRun, SCHEMA)
    except FileNotFoundError:
        root = suites_dir()
        raise StoreError(f"no suite run {run_id!r} in {root}; the newest: {documents.newest(root)}") from None
