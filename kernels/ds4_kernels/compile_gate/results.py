"""Measurements kept on disk, so that a second run compiles only what changed.

One small JSON file each, named by a hash of all that goes into the compilation: the kernel's source and that of every
function it calls, its types and constants, options, architecture, Triton's version and compiler settings. Failures are
not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from ds4_kernels.compile_gate.binary import Measurement
from ds4_kernels.compile_gate.discover import Task

_FORMAT = 3


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/ds4-kernels/compile``, else below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ds4-kernels" / "compile"


def fingerprint(task: Task) -> str:
    """Hash of everything that the compilation of ``task`` depends on."""
    import triton
    from triton.compiler.compiler import get_cache_invalidating_env_vars

    case = task.case
    parts = [
        _FORMAT,
        triton.__version__,
        sorted(get_cache_invalidating_env_vars().items()),
        task.arch,
        case.kernel.cache_key,
        sorted(case.signature.items()),
        # A constant may be a function of the kernel's: its source counts, not where it lies in memory.
        sorted((name, str(getattr(value, "cache_key", repr(value)))) for name, value in case.constexprs.items()),
        [case.num_warps, case.num_stages, sorted(case.divisible)],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class ResultCache:
    """Measurements by fingerprint. An unreadable entry counts as absent; a folder that cannot be written costs only
    time."""

    def __init__(self, folder: Path | None) -> None:
        """``folder`` None: remember nothing."""
        self._folder = folder

    def get(self, key: str) -> Measurement | None:
        """What was measured under ``key``, if anything."""
        if self._folder is None:
            return None
        try:
            return Measurement.from_json(json.loads(self._path(key).read_text()))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def put(self, key: str, measured: Measurement) -> None:
        """Keep a measurement; failures are not kept, as a full disk or lack of memory may have caused them."""
        if self._folder is None or measured.error is not None:
            return
        path = self._path(key)
        partial = path.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(measured.as_json()))
            partial.replace(path)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / key[:2] / f"{key}.json"
