"""Results of shares put together: cells of the detection matrix, and real runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ds4bench.errors import StoreError
from ds4bench.trust import grading, real_runs, real_tables
from ds4bench.trust.expectations import Row
from ds4bench.trust.grading import GateHashes
from ds4bench.trust.real_runs import Kind, RealRuns

FAULTS = "faults.json"
KINDS: tuple[Kind, ...] = ("aa", "ci")


def runs_file(kind: Kind) -> str:
    """The name of a file of real runs."""
    return f"{kind}-runs.json"


def merge(parts: Sequence[Path], results: Path, rows: Sequence[Row], now: GateHashes) -> list[Path]:
    """Write what the folders ``parts`` hold into ``results``; where two measured the same, the later one's counts.

    ``now`` tells which cells of the matrix are of gates as they are. Returns the files written. Raises StoreError for
    folders that hold nothing, and for damaged files.
    """
    written = []
    if found := [part / FAULTS for part in parts if (part / FAULTS).exists()]:
        written.append(_faults(found, results / FAULTS, rows, now))
    for kind in KINDS:
        name = runs_file(kind)
        if found := [part / name for part in parts if (part / name).exists()]:
            written.append(_runs(found, kind, results / name))
    if not written:
        raise StoreError(
            f"nothing to merge in {', '.join(map(str, parts))}: no {FAULTS}, no aa-runs.json or ci-runs.json"
        )
    return written


def _faults(paths: Sequence[Path], target: Path, rows: Sequence[Row], now: GateHashes) -> Path:
    whole = grading.Matrix()
    for path in paths:
        part = grading.load(path)
        whole.machine = part.machine or whole.machine
        for row, cells in part.cells.items():
            whole.cells.setdefault(row, {}).update(cells)
    order = {row.name: place for place, row in enumerate(rows)}
    whole.cells = dict(sorted(whole.cells.items(), key=lambda item: order.get(item[0], len(order))))
    grading.save(whole, target)
    write_faults_table(target, rows, now)
    return target


def write_faults_table(path: Path, rows: Sequence[Row], now: GateHashes) -> str:
    """The matrix as Markdown, beside its file."""
    text = grading.matrix_table(rows, grading.load(path), now)
    path.parent.mkdir(parents=True, exist_ok=True)  # a share may have nothing to do
    path.with_suffix(".md").write_text(text)
    return text


def _runs(paths: Sequence[Path], kind: Kind, target: Path) -> Path:
    found = {run.id: run for path in paths for run in real_runs.load(path, kind).runs}
    whole = RealRuns(kind=kind, runs=sorted(found.values(), key=lambda run: (run.change, run.id)))
    real_runs.save(whole, target)
    write_runs_table(target, kind)
    return target


def write_runs_table(path: Path, kind: Kind) -> str:
    """The runs as Markdown, beside their file."""
    text = real_tables.table(real_runs.load(path, kind))
    path.parent.mkdir(parents=True, exist_ok=True)  # a share may have nothing to do
    path.with_suffix(".md").write_text(text)
    return text
