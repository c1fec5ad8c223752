"""``ratio``: candidate / baseline of a request metric, stratified by cell and queue rank."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, Cell, Estimate, RequestRow, RuleResult, Verdict
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.wording import METRICS, change, limit, percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import RatioRule

Strata = list[list[float]]
"""[repeats, strata]: one value a request, strata are cell x queue rank."""


def judge(rule: RatioRule, evidence: Evidence) -> list[RuleResult]:
    """The metric against the baseline: over all cells with ``margin``, and each cell with
    ``per_cell_margin``.

    PASS: the interval's bad end is inside the margin. FAIL: its good end is outside. Else INCONCLUSIVE with
    the number of repeats that would decide. A cell alone can only FAIL the gate (a hard limit), so it is not
    primary.
    """
    baseline = evidence.baseline
    if baseline is None:
        return [_undecided(rule, "; ".join(evidence.refusal) or "no baseline")]
    cells = evidence.spec.matrix.cells()
    try:
        overall = _estimate(rule, evidence, baseline, cells)
        results = [_overall(rule, overall, baseline)]
        if rule.per_cell_margin is not None:
            results += [_cell(rule, cell, _estimate(rule, evidence, baseline, [cell]), baseline) for cell in cells]
    except ValueError as error:
        return [_undecided(rule, f"{METRICS[rule.metric].name} cannot be compared with {baseline.name}: {error}")]
    return results


def _undecided(rule: RatioRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE", margin=rule.margin)


def _estimate(rule: RatioRule, evidence: Evidence, baseline: Baseline, cells: Sequence[Cell]) -> Estimate:
    from ds4bench.stats.ratio import ratio_estimate

    ours = [row for _, row in evidence.answered()]
    return ratio_estimate(
        strata(ours, cells, rule.metric),
        strata(baseline.requests, cells, rule.metric),
        session_cv=rule.session_cv,
    )


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


def _worsening(rule: RatioRule, estimate: Estimate) -> tuple[float, float]:
    """(good end, bad end) of the interval as "times worse"."""
    if rule.direction == "lower_is_better":
        return estimate.low, estimate.high
    return 1 / estimate.high, 1 / estimate.low


def _verdict(rule: RatioRule, estimate: Estimate, margin: float) -> Verdict:
    good_end, bad_end = _worsening(rule, estimate)
    if good_end > 1 + margin:
        return Verdict.FAIL
    return Verdict.PASS if bad_end <= 1 + margin else Verdict.INCONCLUSIVE


def _overall(rule: RatioRule, estimate: Estimate, baseline: Baseline) -> RuleResult:
    verdict = _verdict(rule, estimate, rule.margin)
    needed, hint = None, ""
    if verdict is Verdict.INCONCLUSIVE:
        needed, hint = _what_would_decide(rule, estimate)
    sentence = (
        f"{change(rule.metric, estimate)} than {baseline.name}; margin {limit(rule.margin)}; "
        f"noise {percent(estimate.noise_cv, 1)}: {verdict}{hint}"
    )
    return RuleResult(
        rule=rule.name,
        verdict=verdict,
        sentence=sentence,
        margin=rule.margin,
        estimate=estimate,
        repeats_needed=needed,
    )


def _cell(rule: RatioRule, cell: Cell, estimate: Estimate, baseline: Baseline) -> RuleResult:
    margin = rule.per_cell_margin or rule.margin
    verdict = _verdict(rule, estimate, margin)
    text = f"{change(rule.metric, estimate)} than {baseline.name}; limit of a cell {limit(margin)}"
    return RuleResult(
        rule=rule.name,
        verdict=verdict,
        sentence=f"{cell.id}: {text}: {verdict}",
        cell=cell.id,
        primary=False,
        margin=margin,
        estimate=estimate,
    )


def _what_would_decide(rule: RatioRule, estimate: Estimate) -> tuple[int | None, str]:
    """The number of repeats that would decide, and the end of the sentence that says so."""
    from ds4bench.stats.ratio import repeats_needed, session_half_width

    margin_log = math.log1p(rule.margin) * (1 if rule.direction == "lower_is_better" else -1)
    needed = repeats_needed(estimate, margin_log, session_cv=rule.session_cv)
    if needed is not None:
        return needed, f"; {needed} repeats would decide (--repeats {needed})"
    both = repeats_needed(estimate, margin_log, session_cv=rule.session_cv, new_baseline=True)
    if both is not None:
        return None, f"; only {both} repeats here and in a new baseline would decide"
    sessions = percent(math.expm1(session_half_width(rule.session_cv)), 1)
    return (
        None,
        f"; no number of repeats would decide, it is nearer to the margin than {sessions} of session noise",
    )
