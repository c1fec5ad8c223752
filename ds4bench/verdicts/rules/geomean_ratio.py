"""``geomean_ratio``: one primary endpoint over all cells, from the means of a repeat, and single cells after Holm.

A repeat's value of a cell is the mean of the metric over its requests; the geometric mean over the cells is what two runs
are compared by, with the statistics of all comparisons (``comparison.py``). Repeats of runs that were measured one after
the other are two samples; they are pairs only where the runs were interleaved (``ds4bench ci``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, Cell, RequestRow, RuleResult
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.rules.comparison import Comparison, incomparable, undecided
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import GeomeanRatioRule


def judge(rule: GeomeanRatioRule, evidence: Evidence) -> list[RuleResult]:
    """The endpoint over all cells, then every cell. A cell alone can only FAIL the gate."""
    from ds4bench.stats.decision import under_twice_the_noise

    baseline = evidence.baseline
    if baseline is None:
        return [undecided(rule, "; ".join(evidence.refusal) or "no baseline")]
    comparison, cells = Comparison.of(rule, evidence, baseline), evidence.spec.matrix.cells()
    try:
        ours = run_means([row for _, row in evidence.answered()], cells, comparison.metric)
        theirs = run_means(baseline.requests, cells, comparison.metric)
        overall = comparison.estimate(ours, theirs)
        single = [(cell, comparison.estimate(_column(ours, i), _column(theirs, i))) for i, cell in enumerate(cells)]
    except ValueError as error:
        return [incomparable(rule, baseline, error)]
    detail = f" (geometric mean over cells){_lengths(evidence, baseline)}"
    noisy = "the margin is under twice the noise" if under_twice_the_noise(rule.margin, overall) else None
    return [
        comparison.overall(overall, detail=detail, too_noisy=noisy),
        *comparison.cells(single, rule.cell_margin),
    ]


def run_means(rows: Iterable[RequestRow], cells: Sequence[Cell], metric: str) -> list[list[float]]:
    """[repeats, cells] of the mean of a metric over the requests of a batch.

    Raises ValueError when a repeat lacks a cell or fewer than half of a batch's requests have the metric: a reply of one
    token has no time per token, but a metric that most replies lack is not measurable.
    """
    batches: dict[tuple[int, str], list[float | None]] = {}
    for row in rows:
        if row.phase == "measure" and row.result.ok:
            batches.setdefault((row.repeat, row.cell), []).append(getattr(row.result, metric))
    table = []
    for repeat in sorted({repeat for repeat, _ in batches}):
        values = []
        for cell in cells:
            batch = batches.get((repeat, cell.id), [])
            known = [value for value in batch if value is not None]
            if not batch or 2 * len(known) < len(batch):
                raise ValueError(f"{len(batch) - len(known)} of {len(batch)} requests of {cell.id} have no such value")
            values.append(fmean(known))
        table.append(values)
    return table


def _column(table: list[list[float]], place: int) -> list[list[float]]:
    return [[values[place]] for values in table]


def _lengths(evidence: Evidence, baseline: Baseline) -> str:
    """The ratio of reply lengths: a serve that answers shorter is not faster."""
    ours = [row.result.completion_tokens for _, row in evidence.answered() if row.result.completion_tokens]
    theirs = [row.result.completion_tokens for row in baseline.requests if row.result.completion_tokens]
    if not ours or not theirs:
        return ""
    ratio = fmean(ours) / fmean(theirs)
    return f", replies {percent(abs(ratio - 1), 1)} {'longer' if ratio >= 1 else 'shorter'}"
