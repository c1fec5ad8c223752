"""Which rows of a run count, in the order and grouping that checks and rules want."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, BatchRow, Cell, RequestRow, RunData, ScriptRow

if TYPE_CHECKING:
    from ds4bench.spec.gate import GateSpec
    from ds4bench.spec.load import EffectiveGate


@dataclass(frozen=True)
class Batch:
    """The requests and scripts of one cell in one repeat, in order, and what was measured around them."""

    cell: Cell
    row: BatchRow
    requests: list[RequestRow]
    scripts: list[ScriptRow] = field(default_factory=list)

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
    """What checks and rules judge. ``baseline`` is None unless it is there and comparable; ``refusal`` says why not."""

    spec: GateSpec
    run: RunData
    baseline: Baseline | None
    batches: list[Batch]
    refusal: list[str] = field(default_factory=list)

    @property
    def planned(self) -> int:
        """Number of batches of a complete run."""
        return len(self.spec.matrix.cells()) * self.spec.repeats.count

    @property
    def complete(self) -> bool:
        """Whether every cell has all its repeats, or the run was stopped because the gate was decided."""
        if self.run.stopped:
            return True
        done = [batch.cell.id for batch in self.batches]
        return all(done.count(cell.id) >= self.spec.repeats.count for cell in self.spec.matrix.cells())

    @property
    def random_weights(self) -> bool:
        """Whether the serve says that its weights are random: what its replies say then means nothing."""
        fingerprint = self.run.manifest.fingerprint
        return fingerprint is not None and fingerprint.weights == "random"

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

    def scripts(self) -> list[ScriptRow]:
        """Every script of a measured batch that ended."""
        return [script for batch in self.batches for script in batch.scripts]


def gather(gate: EffectiveGate, run: RunData, baseline: Baseline | None, refusal: Sequence[str] = ()) -> Evidence:
    """The measured batches of the run that have their BatchRow, in the order of the plan.

    Rows of an attempt that has none (the run was killed in the middle of it) stay in the folder and do not
    count.
    """
    cells = {cell.id: cell for cell in gate.spec.matrix.cells()}
    order = {cell: place for place, cell in enumerate(cells)}
    rows = {(row.cell, row.repeat): row for row in run.batches if row.phase == "measure" and row.cell in cells}
    scripts = _scripts(run.scripts)
    requests = _requests(run.requests, scripts)
    batches = [
        Batch(cells[row.cell], row, requests[_key(row)], scripts[_key(row)])
        for row in sorted(rows.values(), key=lambda row: (row.repeat, order[row.cell]))
    ]
    return Evidence(gate.spec, run, baseline, batches, list(refusal))


_BatchKey = tuple[str, int, int]


def _key(row: BatchRow | RequestRow | ScriptRow) -> _BatchKey:
    return row.cell, row.repeat, row.attempt


def _scripts(rows: Iterable[ScriptRow]) -> defaultdict[_BatchKey, list[ScriptRow]]:
    """Scripts of each batch in order."""
    scripts: defaultdict[_BatchKey, list[ScriptRow]] = defaultdict(list)
    for row in sorted((row for row in rows if row.phase == "measure"), key=lambda row: row.script):
        scripts[_key(row)].append(row)
    return scripts


def _requests(
    rows: Iterable[RequestRow], scripts: Mapping[_BatchKey, list[ScriptRow]]
) -> defaultdict[_BatchKey, list[RequestRow]]:
    """Requests of each batch in order. Of a script that was torn and run again only the last try counts."""
    latest = {(_key(row), row.script, row.turn, row.index): row for row in rows if row.phase == "measure"}
    sent = {(key, script.script): script.requests for key, ended in scripts.items() for script in ended}
    requests: defaultdict[_BatchKey, list[RequestRow]] = defaultdict(list)
    for row in sorted(latest.values(), key=lambda row: (row.script, row.turn, row.index)):
        key = _key(row)
        if row.turn < sent.get((key, row.script), row.turn + 1):
            requests[key].append(row)
    return requests


def cells_of(batches: Iterable[Batch]) -> list[str]:
    """Ids of the batches' cells, each once, in order."""
    return list(dict.fromkeys(batch.cell.id for batch in batches))
