"""``ratio``: candidate / baseline of a request metric, stratified by cell and queue rank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ds4bench.core import Cell, RequestRow, RuleResult
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.rules.comparison import Comparison, incomparable, undecided

if TYPE_CHECKING:
    from ds4bench.spec.rules import RatioRule

Strata = list[list[float]]
"""[repeats, strata]: one value a request, strata are cell x queue rank."""


def judge(rule: RatioRule, evidence: Evidence) -> list[RuleResult]:
    """The metric against the baseline: over all cells with ``margin``, and each cell with
    ``per_cell_margin``.

    PASS, FAIL and INCONCLUSIVE as ``stats/decision.py`` has them; an INCONCLUSIVE says the number of repeats that would
    decide. A cell alone can only FAIL the gate (a hard limit), after Holm over the cells, so it is not primary.
    """
    baseline = evidence.baseline
    if baseline is None:
        return [undecided(rule, "; ".join(evidence.refusal) or "no baseline")]
    comparison, cells = Comparison.of(rule, evidence, baseline), evidence.spec.matrix.cells()
    ours = [row for _, row in evidence.answered()]

    def table(rows: Iterable[RequestRow], some: Sequence[Cell]) -> Strata:
        return strata(rows, some, comparison.metric)

    try:
        overall = comparison.estimate(table(ours, cells), table(baseline.requests, cells))
        results = [comparison.overall(overall)]
        if rule.per_cell_margin is not None:
            single = [(c, comparison.estimate(table(ours, [c]), table(baseline.requests, [c]))) for c in cells]
            results += comparison.cells(single, rule.per_cell_margin)
    except ValueError as error:
        return [incomparable(rule, baseline, error)]
    return results


def strata(rows: Iterable[RequestRow], cells: Sequence[Cell], metric: str) -> Strata:
    """One list of values a repeat: cell by cell, inside a batch by turn and queue rank (the order of TTFT).

    The rank and not the request's index is the stratum, because which of the requests that start together is
    served first is chance, and the pooled mean of a queue is an average of the queue, not of the engine.
    Raises ValueError when a request has no value or repeats have different numbers of requests.
    """
    batches: dict[tuple[int, str], list[RequestRow]] = {}
    for row in rows:
        if row.phase == "measure" and row.result.ok:
            batches.setdefault((row.repeat, row.cell), []).append(row)
    for batch in batches.values():
        batch.sort(key=lambda row: (row.turn, row.result.ttft_s or math.inf))
    table: Strata = []
    for repeat in sorted({repeat for repeat, _ in batches}):
        values = [getattr(row.result, metric) for cell in cells for row in batches.get((repeat, cell.id), [])]
        if any(value is None for value in values):
            raise ValueError(f"{sum(v is None for v in values)} requests of a repeat have no such value")
        table.append(values)
    if len({len(values) for values in table}) > 1:
        raise ValueError("its repeats have different numbers of requests")
    return table
