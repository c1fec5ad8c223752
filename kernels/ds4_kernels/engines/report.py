"""What the hooks of this process did, as a small JSON file that a harness reads to prove that the kernels really ran.

``DS4_KERNELS_REPORT=DIR`` gives ``DIR/ds4-kernels-<engine>-<pid>.json``, schema ``ds4-kernels.report/1``. It is written when
the hooks are installed, at the first call of each, when a count has grown and ``INTERVAL_S`` have passed, and at exit. A
reader sees either the old or the new file, never half of one. A process that is killed loses at most the last interval.

Counts are Python calls: a replayed CUDA graph passes none, its capture passed one. What torch.compile takes from its cache on
disk passes none either, and was traced in another process.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ds4_kernels import __version__, env

SCHEMA = "ds4-kernels.report/1"
INTERVAL_S = 5.0


@dataclass
class Difference:
    """The worst of all shadow calls for one output: ours against the engine's."""

    calls: int = 0
    max_abs: float = 0.0
    max_rel: float = 0.0
    min_cosine: float = 1.0
    mismatch: float = 0.0
    """Share of integer elements, or of infinities and NaNs, that differ."""
    shape: str = ""


@dataclass
class HookState:
    """One hook. ``state``: pending (its module was not imported), installed, skipped or failed (``reason`` says why)."""

    hook: str
    op: str
    group: str
    target: str
    state: str = "pending"
    reason: str = ""
    calls: int = 0
    declined: dict[str, int] = field(default_factory=dict)
    inactive: int = 0
    """Calls that went to the engine because of the device."""
    traced: int = 0
    """Calls that torch.compile traced: what it made of them runs the engine's own op, and passes here no more."""
    sabotaged: int = 0
    shadow: dict[str, Difference] = field(default_factory=dict)
    computes: bool = True
    """False for a hook that only chooses among the engine's classes or settings: it proves nothing about kernels."""


class Report:
    """The state of one engine's hooks in this process, and its file."""

    def __init__(self, engine: str, version: str | None, settings: env.Settings) -> None:
        self.engine, self.version, self.settings = engine, version, settings
        self.table: str | None = None
        self.note = ""
        self.device = ""
        self.hooks: list[HookState] = []
        self._lock = threading.Lock()
        self._written = 0.0
        self._started = time.time()
        if settings.report is not None:
            atexit.register(self.write)
            os.register_at_fork(after_in_child=self._forget)

    @property
    def path(self) -> Path | None:
        """This process's file; None without DS4_KERNELS_REPORT."""
        folder = self.settings.report
        return None if folder is None else folder / f"ds4-kernels-{self.engine}-{os.getpid()}.json"

    def add(self, state: HookState) -> HookState:
        """Keep a hook's state."""
        self.hooks.append(state)
        return state

    def touch(self, first: bool = False) -> None:
        """A count has grown: write the file at the first call of a hook and every ``INTERVAL_S``."""
        if self.settings.report is None:
            return
        now = time.monotonic()
        if first or now - self._written >= INTERVAL_S:
            self._written = now
            self.write()

    def document(self) -> dict[str, Any]:
        """The JSON document."""
        settings = self.settings
        return {
            "schema": SCHEMA,
            "ds4_kernels": __version__,
            "pid": os.getpid(),
            "process": " ".join(sys.argv[:2]),
            "started_at": self._started,
            "written_at": time.time(),
            "engine": self.engine,
            "version": self.version,
            "table": self.table,
            "note": self.note,
            "device": self.device,
            "mode": settings.mode,
            "ops": settings.ops,
            "strict": settings.strict,
            "shadow": settings.shadow,
            "sabotage": dict(settings.sabotage or {}),
            "hooks": [asdict(state) for state in self.hooks],
        }

    def write(self) -> None:
        """Write the file. Trouble with the folder is one line, never an exception in the engine."""
        path = self.path
        if path is None:
            return
        try:
            with self._lock:
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_suffix(f".{threading.get_ident()}.part")
                part.write_text(json.dumps(self.document(), indent=1))
                part.replace(path)
        except OSError as error:
            say(self.engine, f"cannot write {path}: {error}")
            self.settings = env.Settings(**{**vars(self.settings), "report": None})

    def _forget(self) -> None:
        """In a forked child: what the parent counted is the parent's."""
        self._lock = threading.Lock()
        self._started = time.time()
        for state in self.hooks:
            state.calls = state.inactive = state.traced = state.sabotaged = 0
            state.declined, state.shadow = {}, {}


def say(engine: str, line: str) -> None:
    """One line in the engine's log; on stderr where the engine has no handler yet."""
    logger = logging.getLogger(f"{engine}.ds4_kernels")
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        logger.info("ds4-kernels: %s", line)
    else:
        sys.stderr.write(f"ds4-kernels: {line}\n")
