"""``limit``: a measure of every cell must stay below or above an absolute value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ds4bench.core import RuleResult, Verdict
from ds4bench.measures import cell_measures
from ds4bench.verdicts.evidence import Evidence

if TYPE_CHECKING:
    from ds4bench.spec.rules import LimitRule


def judge(rule: LimitRule, evidence: Evidence) -> list[RuleResult]:
    """The worst cell against the limit. A cell without the measure is INCONCLUSIVE, or left out where the rule says."""
    rows = [row for batch in evidence.batches for row in batch.requests]
    batches = [batch.row for batch in evidence.batches]
    measured = cell_measures(evidence.spec.matrix.cells(), rows, batches, evidence.scripts())
    values: list[tuple[float, str]] = []
    silent: list[str] = []
    for item in measured:
        value = getattr(item, rule.measure)
        if value is None:
            silent.append(item.cell.id)
        else:
            values.append((float(value), item.cell.id))
    if silent and rule.missing == "inconclusive":
        return [_undecided(rule, f"{rule.measure} cannot be measured in {', '.join(silent)}")]
    if not values:
        sentence = f"{rule.measure}: not applicable (no cell has it)"
        return [RuleResult(rule=rule.name, verdict=Verdict.SKIPPED, sentence=sentence, primary=False)]
    return [_against(rule, values)]


def _against(rule: LimitRule, values: list[tuple[float, str]]) -> RuleResult:
    if rule.at_most is not None:
        (worst, cell), bound, word = max(values), rule.at_most, "at most"
        verdict = Verdict.PASS if worst <= bound else Verdict.FAIL
    else:
        (worst, cell), bound, word = min(values), rule.at_least or 0.0, "at least"
        verdict = Verdict.PASS if worst >= bound else Verdict.FAIL
    sentence = f"{rule.measure} is {worst:.4g} in {cell}, {word} {bound:g} is asked: {verdict}"
    return RuleResult(rule=rule.name, verdict=verdict, sentence=sentence, margin=bound)


def _undecided(rule: LimitRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE")
