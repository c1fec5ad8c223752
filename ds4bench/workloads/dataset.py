"""Items that a workload reads from files: JSON lines, with an identity that enters the measurement."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ds4bench.core import DataIdentity
from ds4bench.errors import WorkloadError, reason_of


@dataclass(frozen=True)
class DataSet:
    """Items in their order, as plain JSON values."""

    identity: DataIdentity
    items: list[Any]


def make_dataset(name: str, items: Sequence[Any], source: str | None = None) -> DataSet:
    """Items under a name; the identity's hash is over their canonical JSON. ``source`` is what ``--data`` named."""
    canonical = json.dumps(list(items), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
    return DataSet(DataIdentity(name=name, items=len(items), sha256=digest, source=source), list(items))


def read_jsonl(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not empty. Raises WorkloadError with file and line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkloadError(f"{path}: cannot be read: {reason_of(error)}; give a file of JSON lines") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise WorkloadError(f"{path}:{number}: not JSON ({error}); every line must be one object") from None
        if not isinstance(row, dict):
            raise WorkloadError(f"{path}:{number}: every line must be one JSON object")
        rows.append((number, row))
    if not rows:
        raise WorkloadError(f"{path}: has no lines; give a file of JSON lines")
    return rows
