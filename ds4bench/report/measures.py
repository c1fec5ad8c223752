"""Per-cell numbers of a run, for people. What decides is computed from the rows in ``verdicts``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ds4bench.core import Cell, RequestRow, RunData


@dataclass(frozen=True)
class CellMeasures:
    """One cell. Times in seconds, rates in tokens a second; None = nothing measured. Means are over requests.

    ``prefill_tok_s`` is all prompt tokens of a batch over its last TTFT, averaged over batches: at c = 1 the prefill rate.
    ``decode_tok_s`` is one request's rate after its first chunk (1 / TPOT_decode, else 1 / TPOT).
    """

    cell: Cell
    requests: int
    failures: int
    ttft_mean_s: float | None
    ttft_max_s: float | None
    prefill_tok_s: float | None
    decode_tok_s: float | None
    recall: float | None


def measured_rows(run: RunData) -> list[RequestRow]:
    """Requests of complete measured batches: the rows that count."""
    complete = {(b.cell, b.repeat, b.attempt) for b in run.batches if b.phase == "measure"}
    return [r for r in run.requests if r.phase == "measure" and (r.cell, r.repeat, r.attempt) in complete]


def cell_measures(cells: Sequence[Cell], rows: Iterable[RequestRow]) -> list[CellMeasures]:
    """The measures of each cell, in the order of ``cells``."""
    by_cell: dict[str, list[RequestRow]] = {cell.id: [] for cell in cells}
    for row in rows:
        by_cell.setdefault(row.cell, []).append(row)
    return [_measures(cell, by_cell[cell.id]) for cell in cells]


def _measures(cell: Cell, rows: list[RequestRow]) -> CellMeasures:
    good = [row for row in rows if row.result.ok]
    ttft = [row.result.ttft_s for row in good if row.result.ttft_s is not None]
    per_token = [t for row in good if (t := row.result.tpot_decode_ms or row.result.tpot_ms)]
    recall = [row.answer.scores["recall"] for row in good if row.answer and "recall" in row.answer.scores]
    return CellMeasures(
        cell=cell,
        requests=len(rows),
        failures=len(rows) - len(good),
        ttft_mean_s=fmean(ttft) if ttft else None,
        ttft_max_s=max(ttft, default=None),
        prefill_tok_s=_prefill(good),
        decode_tok_s=1000 / fmean(per_token) if per_token else None,
        recall=fmean(recall) if recall else None,
    )


def _prefill(rows: list[RequestRow]) -> float | None:
    batches: dict[int, list[RequestRow]] = {}
    for row in rows:
        batches.setdefault(row.repeat, []).append(row)
    rates = []
    for batch in batches.values():
        tokens = sum(row.result.prompt_tokens or 0 for row in batch)
        last = max((row.result.ttft_s or 0.0 for row in batch), default=0.0)
        if tokens and last:
            rates.append(tokens / last)
    return fmean(rates) if rates else None
