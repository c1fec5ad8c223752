"""``points``: the absolute difference of a share to the baseline's, cell by cell, with an interval over repeats.

A value of a cell is the share over all requests of one repeat. The interval is Welch's two-sample t (B. L. Welch,
Biometrika 34, 1947): repeats of two runs are independent samples. A cell PASSes when its 90 % interval stays within the
margin. It FAILs when the interval lies beyond it *and* "nothing fell" is rejected at 1 % after Holm over the cells: with two
or three repeats a cell's own error is now and then far too small, and of twenty cells one is enough to blame an unchanged
build. So that test takes the larger of the cell's error and the one pooled over all cells. With one repeat on a side there is
only the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, variance
from typing import TYPE_CHECKING, NamedTuple

from ds4bench.core import BatchRow, Cell, RequestRow, RuleResult, ScriptRow, Verdict
from ds4bench.measures import cell_measures
from ds4bench.stats.decision import levels
from ds4bench.stats.holm import holm_adjust
from ds4bench.verdicts.evidence import Evidence

if TYPE_CHECKING:
    from ds4bench.spec.rules import PointsRule

_CONFIDENCE = 0.90
_ROUNDING = 1e-9


class Difference(NamedTuple):
    """Candidate less baseline, as shares of 1; the ends of its interval and its standard error are None without repeats on
    both sides."""

    cell: str
    candidate: float
    baseline: float
    low: float | None
    high: float | None
    error: float | None
    freedom: int

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
    judged = verdicts(rule, found, levels(evidence.spec.repeats.looks).fail_level)
    verdict, p, worst = min(
        ((verdict, p, item) for (verdict, p), item in zip(judged, found, strict=True)),
        key=lambda three: (_order(three[0]), three[2].points),
    )
    sentence = f"{_words(rule, worst, p, baseline.name)} (worst of {len(found)} cells): {verdict}"
    single = [
        RuleResult(
            rule=rule.name, verdict=said, cell=item.cell, primary=False, margin=rule.margin, p=adjusted,
            sentence=f"{_words(rule, item, adjusted, baseline.name)}: {said}",
        )
        for (said, adjusted), item in zip(judged, found, strict=True)
    ]  # fmt: skip
    return [RuleResult(rule=rule.name, verdict=verdict, sentence=sentence, margin=rule.margin, p=p), *single]


def verdicts(
    rule: PointsRule, found: Sequence[Difference], level: float
) -> list[tuple[Verdict, float | None]]:  # fmt: skip
    """The verdict of each cell, and its p within the family of all."""
    return [(_verdict(rule, item, p, level), p) for item, p in zip(found, ps_of(found), strict=True)]


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
    """Difference of means with its 90 % interval and standard error, where both sides have repeats. ``freedom``: degrees of
    freedom that the cell adds to an error pooled over cells."""
    from scipy.special import stdtrit

    mean, freedom = fmean(ours) - fmean(theirs), len(ours) + len(theirs) - 2
    if min(len(ours), len(theirs)) < 2:
        return Difference(cell, fmean(ours), fmean(theirs), None, None, None, 0)
    a, b = variance(ours) / len(ours), variance(theirs) / len(theirs)
    half, error = 0.0, math.sqrt(a + b)
    if a + b > 0:
        own_freedom = (a + b) ** 2 / (a * a / (len(ours) - 1) + b * b / (len(theirs) - 1))
        half = float(stdtrit(own_freedom, 0.5 + _CONFIDENCE / 2)) * error
    return Difference(cell, fmean(ours), fmean(theirs), mean - half, mean + half, error, freedom)


def ps_of(found: Sequence[Difference]) -> list[float | None]:
    """One-sided p of "this cell did not fall" after Holm over the cells; None for a cell without repeats on both sides."""
    from scipy.special import stdtr

    known = [(item, item.error) for item in found if item.error is not None]
    if not known:
        return [None] * len(found)
    pooled = math.sqrt(fmean(error * error for _, error in known))
    freedom = sum(item.freedom for item, _ in known)

    def p_of(points: float, error: float) -> float:
        return float(stdtr(freedom, points / error)) if error > 0 else float(points >= 0)

    adjusted = iter(holm_adjust([p_of(item.points, max(error, pooled)) for item, error in known]))
    return [None if item.error is None else next(adjusted) for item in found]


def _order(verdict: Verdict) -> int:
    return (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS).index(verdict)


def _verdict(rule: PointsRule, item: Difference, p: float | None, level: float) -> Verdict:
    low = item.points if item.low is None else item.low
    high = item.points if item.high is None else item.high
    if high < -rule.margin - _ROUNDING and (p is None or p <= level):
        return Verdict.FAIL
    return Verdict.PASS if low >= -rule.margin - _ROUNDING else Verdict.INCONCLUSIVE


def _words(rule: PointsRule, item: Difference, p: float | None, name: str) -> str:
    word = "below" if item.points < 0 else "above"
    interval = "" if item.low is None or item.high is None else f" ({100 * item.low:+.1f} to {100 * item.high:+.1f})"
    return (
        f"{rule.measure} of {item.cell} is {100 * item.candidate:.1f} %, {abs(100 * item.points):.1f} points{interval} "
        f"{word} {name}; margin {100 * rule.margin:g} points"
        f"{f'; p {p:.2g} (Holm)' if p is not None and item.points < -rule.margin else ''}"
    )


def _undecided(rule: PointsRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE", margin=rule.margin)
