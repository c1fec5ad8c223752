"""Which rows of a run count, in the order and grouping that checks and rules want."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, BatchRow, Cell, RequestRow, RunData

if TYPE_CHECKING:
    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.load import EffectiveGate


@dataclass(frozen=True)
class Batch:
    """The requests of one cell in one repeat, by index, and what was measured around them."""

    cell: Cell
    row: BatchRow
    requests: list[RequestRow]

    @property
    def answered(self) -> list[RequestRow]:
        """The requests that did not fail."""
        return [row for row in self.requests if row.result.ok]

    def median_ttft_s(self) -> float | None:
        """Median TTFT of the batch in seconds; None when no request has one."""
        values = [row.result.ttft_s for row in self.answered if row.result.ttft_s is not None]
        return median(values) if values else None


@dataclass(frozen=True)
class Evidence:
    """What checks and rules judge. ``baseline`` is None unless it is there and comparable."""

    spec: GateSpec
    run: RunData
    baseline: Baseline | None
    batches: list[Batch]

    @property
    def planned(self) -> int:
        """Number of batches of a complete run."""
        return len(self.spec.matrix.cells()) * self.spec.repeats.count

    @property
    def complete(self) -> bool:
        """Whether every cell has all its repeats."""
        done = [batch.cell.id for batch in self.batches]
        return all(done.count(cell.id) >= self.spec.repeats.count for cell in self.spec.matrix.cells())

    @property
    def interruption(self) -> str:
        """How far the run came and how it goes on, for sentences."""
        resume = f"resume with --resume {self.run.manifest.run_id}"
        return f"{len(self.batches)} of {self.planned} batches measured; {resume}"

    def answered(self) -> Iterator[tuple[Batch, RequestRow]]:
        """Every measured request that did not fail, with its batch."""
        for batch in self.batches:
            for row in batch.answered:
                yield batch, row


def gather(gate: EffectiveGate, run: RunData, baseline: Baseline | None) -> Evidence:
    """The measured batches of the run that have their BatchRow, in the order of the plan.

    Rows of an attempt that has none (the run was killed in the middle of it) stay in the folder and do not
    count.
    """
    cells = {cell.id: cell for cell in gate.spec.matrix.cells()}
    order = {cell: place for place, cell in enumerate(cells)}
    rows = {(row.cell, row.repeat): row for row in run.batches if row.phase == "measure" and row.cell in cells}
    batches = [
        Batch(cells[row.cell], row, _rows_of(row, run.requests))
        for row in sorted(rows.values(), key=lambda row: (row.repeat, order[row.cell]))
    ]
    return Evidence(gate.spec, run, baseline, batches)


def _rows_of(batch: BatchRow, rows: Iterable[RequestRow]) -> list[RequestRow]:
    key = (batch.cell, batch.repeat, batch.attempt, "measure")
    ours = [row for row in rows if (row.cell, row.repeat, row.attempt, row.phase) == key]
    return sorted(ours, key=lambda row: row.index)


def cells_of(batches: Iterable[Batch]) -> list[str]:
    """Ids of the batches' cells, each once, in order."""
    return list(dict.fromkeys(batch.cell.id for batch in batches))
