"""``points``: the absolute difference of a share to the baseline's, cell by cell, with an interval over repeats.

A value of a cell is the share over all requests of one repeat. The interval is Welch's two-sample t (B. L. Welch, Biometrika
34, 1947): repeats of two runs are independent samples. With one repeat on a side there is no interval, only the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, variance
from typing import TYPE_CHECKING, NamedTuple

from ds4bench.core import BatchRow, Cell, RequestRow, RuleResult, ScriptRow, Verdict
from ds4bench.measures import cell_measures
from ds4bench.verdicts.evidence import Evidence

if TYPE_CHECKING:
    from ds4bench.spec.rules import PointsRule

_CONFIDENCE = 0.90
_ROUNDING = 1e-9


class Difference(NamedTuple):
    """Candidate less baseline, as shares of 1; ``low`` and ``high`` are None without repeats on both sides."""

    cell: str
    candidate: float
    baseline: float
    low: float | None
    high: float | None

    @property
    def points(self) -> float:
        """The difference."""
        return self.candidate - self.baseline


def judge(rule: PointsRule, evidence: Evidence) -> list[RuleResult]:
    """The worst cell decides; every cell stands beside it. A share that rises is no regression."""
    baseline = evidence.baseline
    if baseline is None:
        return [_undecided(rule, "; ".join(evidence.refusal) or "no baseline")]
    cells = evidence.spec.matrix.cells()
    rows = [row for batch in evidence.batches for row in batch.requests]
    ours = shares(rule.measure, cells, rows, [batch.row for batch in evidence.batches], evidence.scripts())
    theirs = shares(rule.measure, cells, baseline.requests, baseline.batches, baseline.scripts)
    lacking = [cell.id for cell in cells if not (ours[cell.id] and theirs[cell.id])]
    if lacking:
        return [_undecided(rule, f"{rule.measure} cannot be compared with {baseline.name} in {', '.join(lacking)}")]
    found = [difference(cell.id, ours[cell.id], theirs[cell.id]) for cell in cells]
    results = [_cell(rule, item, baseline.name) for item in found]
    worst = min(zip(results, found, strict=True), key=lambda pair: (_order(pair[0].verdict), pair[1].points))
    sentence = f"{_words(rule, worst[1], baseline.name)} (worst of {len(found)} cells): {worst[0].verdict}"
    return [RuleResult(rule=rule.name, verdict=worst[0].verdict, sentence=sentence, margin=rule.margin), *results]


def shares(
    measure: str,
    cells: Sequence[Cell],
    rows: Iterable[RequestRow],
    batches: Iterable[BatchRow],
    scripts: Iterable[ScriptRow],
) -> dict[str, list[float]]:
    """The measure of each repeat, by cell. A cell that has it in some repeats only has none."""
    rows, batches, scripts = list(rows), list(batches), list(scripts)
    values: dict[str, list[float]] = {}
    for cell in cells:
        repeats = sorted({row.repeat for row in rows if row.cell == cell.id and row.phase == "measure"})
        of_repeat = [
            cell_measures(
                [cell],
                [row for row in rows if row.cell == cell.id and row.repeat == repeat and row.phase == "measure"],
                [batch for batch in batches if batch.cell == cell.id and batch.repeat == repeat],
                [script for script in scripts if script.cell == cell.id and script.repeat == repeat],
            )[0]
            for repeat in repeats
        ]
        known = [value for item in of_repeat if (value := getattr(item, measure)) is not None]
        values[cell.id] = known if len(known) == len(repeats) else []
    return values


def difference(cell: str, ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Difference of means with its 90 % interval, where both sides have repeats."""
    from scipy.special import stdtrit

    mean = fmean(ours) - fmean(theirs)
    if min(len(ours), len(theirs)) < 2:
        return Difference(cell, fmean(ours), fmean(theirs), None, None)
    a, b = variance(ours) / len(ours), variance(theirs) / len(theirs)
    half = 0.0
    if a + b > 0:
        freedom = (a + b) ** 2 / (a * a / (len(ours) - 1) + b * b / (len(theirs) - 1))
        half = float(stdtrit(freedom, 0.5 + _CONFIDENCE / 2)) * math.sqrt(a + b)
    return Difference(cell, fmean(ours), fmean(theirs), mean - half, mean + half)


def _order(verdict: Verdict) -> int:
    return (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS).index(verdict)


def _verdict(rule: PointsRule, item: Difference) -> Verdict:
    low = item.points if item.low is None else item.low
    high = item.points if item.high is None else item.high
    if high < -rule.margin - _ROUNDING:
        return Verdict.FAIL
    return Verdict.PASS if low >= -rule.margin - _ROUNDING else Verdict.INCONCLUSIVE


def _words(rule: PointsRule, item: Difference, name: str) -> str:
    word = "below" if item.points < 0 else "above"
    interval = "" if item.low is None or item.high is None else f" ({100 * item.low:+.1f} to {100 * item.high:+.1f})"
    return (
        f"{rule.measure} of {item.cell} is {100 * item.candidate:.1f} %, {abs(100 * item.points):.1f} points{interval} "
        f"{word} {name}; margin {100 * rule.margin:g} points"
    )


def _cell(rule: PointsRule, item: Difference, name: str) -> RuleResult:
    verdict = _verdict(rule, item)
    sentence = f"{_words(rule, item, name)}: {verdict}"
    return RuleResult(
        rule=rule.name, verdict=verdict, sentence=sentence, cell=item.cell, primary=False, margin=rule.margin
    )


def _undecided(rule: PointsRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE", margin=rule.margin)
