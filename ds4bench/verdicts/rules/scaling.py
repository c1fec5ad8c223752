"""``scaling``: a measure of cells with more requests in flight, as a share of the same cell with one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds4bench.core import Cell, RuleResult, Verdict
from ds4bench.measures import cell_measures
from ds4bench.verdicts.evidence import Evidence

if TYPE_CHECKING:
    from ds4bench.spec.rules import ScalingRule


def judge(rule: ScalingRule, evidence: Evidence) -> list[RuleResult]:
    """The worst cell against the limit. INCONCLUSIVE where a cell or its twin at c=1 lacks the measure."""
    rows = [row for batch in evidence.batches for row in batch.requests]
    cells = evidence.spec.matrix.cells()
    measured = cell_measures(cells, rows, [batch.row for batch in evidence.batches], evidence.scripts())
    values = {item.cell.id: getattr(item, rule.measure) for item in measured}
    single = {_others(cell): values[cell.id] for cell in cells if cell.concurrency == 1}
    shares: list[tuple[float, str]] = []
    for cell in cells:
        if cell.concurrency == 1:
            continue
        own, alone = values[cell.id], single.get(_others(cell))
        if not own or not alone:
            return [_result(rule, Verdict.INCONCLUSIVE, f"{rule.measure} of {cell.id} or of its c=1 cell is not there")]
        shares.append((own / alone, cell.id))
    if not shares:
        return [_result(rule, Verdict.INCONCLUSIVE, "there is no cell with more than one request in flight")]
    worst, cell_id = min(shares)
    verdict = Verdict.PASS if worst >= rule.at_least else Verdict.FAIL
    sentence = f"{rule.measure} of {cell_id} is {worst:.2f} of that at c=1, at least {rule.at_least:g} is asked"
    return [_result(rule, verdict, sentence)]


def _others(cell: Cell) -> tuple[tuple[str, object], ...]:
    """The cell's place on the other axes."""
    return tuple((name, value) for name, value in cell.params.items() if name != "concurrency")


def _result(rule: ScalingRule, verdict: Verdict, sentence: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=verdict, sentence=f"{sentence}: {verdict}", margin=rule.at_least)
