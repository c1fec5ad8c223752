"""What an attribution has measured so far, one file each: enough to go on after a kill. Rows stay in the run folders."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ds4bench.core import Estimate
from ds4bench.errors import StoreError
from ds4bench.paths import state_dir
from ds4bench.store import documents

SCHEMA = 1
FILE = "attribution.json"


class Step(msgspec.Struct, kw_only=True):
    """One configuration: its run, and what the run said against ``baseline_run``. ``words`` tell a person what is on the
    bundle: ``ops`` of those that are searched.

    ``earlier`` are runs of the same configuration that could not be compared, because the machine had drifted.
    """

    kernels: str
    words: str
    ops: list[str]
    run: str | None = None
    baseline_run: str | None = None
    done: bool = False
    effect: str | None = None
    sentence: str = ""
    rule: str | None = None
    estimate: Estimate | None = None
    earlier: list[str] = []
    seconds: float = 0.0


class BaselineRun(msgspec.Struct, kw_only=True):
    """One run with the engine's own kernels."""

    run: str
    done: bool = False


class GroupRow(msgspec.Struct, frozen=True, kw_only=True):
    """A group of ops that are switched together first."""

    name: str
    ops: list[str]


class AttributionRun(msgspec.Struct, kw_only=True):
    """``attribution.json``. ``groups`` are the ops that are searched: those asked for, and once all of them have been on
    the bundle together those that the engine really called. ``closing``: culprits measured again beside a new baseline."""

    schema: int
    run_id: str
    gate: str
    profile: str
    wanted: str
    asked: dict[str, object]
    groups: list[GroupRow]
    called: bool = False
    never_called: list[str] = []
    baselines: list[BaselineRun] = []
    steps: list[Step] = []
    closing: list[Step] = []
    closing_effect: str | None = None
    closing_sentence: str = ""


def attributions_dir() -> Path:
    """Where attributions are kept."""
    return state_dir() / "attributions"


def folder_of(run_id: str) -> Path:
    """The folder of an attribution; need not exist."""
    return attributions_dir() / run_id


def save(run: AttributionRun) -> None:
    """Write the state whole or not at all."""
    documents.write(folder_of(run.run_id) / FILE, run)


def load(run_id: str) -> AttributionRun:
    """Read it back. Raises StoreError for an unknown or damaged one."""
    try:
        return documents.read(folder_of(run_id) / FILE, AttributionRun, SCHEMA)
    except FileNotFoundError:
        root = attributions_dir()
        raise StoreError(f"no attribution {run_id!r} in {root}; the newest: {documents.newest(root)}") from None
