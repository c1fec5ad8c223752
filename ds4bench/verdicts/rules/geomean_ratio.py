"""``geomean_ratio``: one primary endpoint over all cells, paired by repeat, and single cells after Holm.

A repeat's value of a cell is the mean of the metric over its requests. Their logarithms' difference, candidate less
baseline of the same repeat, averaged over the cells, is one observation a repeat; the interval over repeats is Student's t
of these (Student, "The Probable Error of a Mean", Biometrika 6(1), 1908), widened by the session noise as in
``stats/ratio.py``. Single cells are tested one-sided at 5 % against their own wider margin (S. Holm, Scandinavian Journal
of Statistics 6(2), 1979).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from ds4bench.core import Baseline, Cell, Estimate, RequestRow, RuleResult, Verdict
from ds4bench.verdicts.evidence import Evidence
from ds4bench.verdicts.wording import METRICS, change, limit, percent

if TYPE_CHECKING:
    from ds4bench.spec.rules import GeomeanRatioRule

_CONFIDENCE = 0.90
_ALPHA = 0.05
_LEAST_REPEATS = 3


def judge(rule: GeomeanRatioRule, evidence: Evidence) -> list[RuleResult]:
    """The endpoint over all cells, then every cell. A cell alone can only FAIL the gate."""
    baseline = evidence.baseline
    if baseline is None:
        return [_undecided(rule, "; ".join(evidence.refusal) or "no baseline")]
    cells = evidence.spec.matrix.cells()
    try:
        ours = run_means([row for _, row in evidence.answered()], cells, rule.metric)
        theirs = run_means(baseline.requests, cells, rule.metric)
        overall = _estimate(ours, theirs, rule.session_cv)
        single = [_estimate(_column(ours, i), _column(theirs, i), rule.session_cv) for i in range(len(cells))]
    except ValueError as error:
        return [_undecided(rule, f"{METRICS[rule.metric].name} cannot be compared with {baseline.name}: {error}")]
    return [_overall(rule, overall, evidence, baseline), *_cells(rule, cells, single, baseline)]


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


def _estimate(ours: list[list[float]], theirs: list[list[float]], session_cv: float) -> Estimate:
    from scipy.special import stdtrit

    from ds4bench.stats.ratio import session_half_width

    count = min(len(ours), len(theirs))
    if count < _LEAST_REPEATS:
        raise ValueError(f"{count} pairs of repeats show no noise, at least {_LEAST_REPEATS} are needed")
    a, b = [_log_mean(values) for values in ours], [_log_mean(values) for values in theirs]
    differences = [x - y for x, y in zip(a[:count], b[:count], strict=True)]
    mean, spread = fmean(differences), stdev(differences)
    t = float(stdtrit(count - 1, 0.5 + _CONFIDENCE / 2))
    half = math.hypot(t * spread / math.sqrt(count), session_half_width(session_cv, _CONFIDENCE))
    return Estimate(
        ratio=math.exp(mean),
        low=math.exp(mean - half),
        high=math.exp(mean + half),
        noise_cv=spread / math.sqrt(2),  # of one run: a difference has twice the variance
        candidate=math.exp(fmean(a[:count])),
        baseline=math.exp(fmean(b[:count])),
        candidate_repeats=count,
        baseline_repeats=count,
    )


def _log_mean(values: Sequence[float]) -> float:
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError("there are values that are not positive and finite")
    return fmean(math.log(value) for value in values)


def _overall(rule: GeomeanRatioRule, estimate: Estimate, evidence: Evidence, baseline: Baseline) -> RuleResult:
    good, bad = _worsening(rule, estimate)
    quiet = rule.margin >= 2 * estimate.noise_cv
    verdict = Verdict.INCONCLUSIVE
    if good > 1 + rule.margin:
        verdict = Verdict.FAIL
    elif bad <= 1 + rule.margin and quiet:
        verdict = Verdict.PASS
    noise = "" if quiet else "; the margin is under twice the noise"
    sentence = (
        f"{change(rule.metric, estimate)} than {baseline.name} (geometric mean over cells){_lengths(evidence, baseline)}; "
        f"margin {limit(rule.margin)}; noise {percent(estimate.noise_cv, 1)}{noise}: {verdict}"
    )
    return RuleResult(rule=rule.name, verdict=verdict, sentence=sentence, margin=rule.margin, estimate=estimate)


def _lengths(evidence: Evidence, baseline: Baseline) -> str:
    """The ratio of reply lengths: a serve that answers shorter is not faster."""
    ours = [row.result.completion_tokens for _, row in evidence.answered() if row.result.completion_tokens]
    theirs = [row.result.completion_tokens for row in baseline.requests if row.result.completion_tokens]
    if not ours or not theirs:
        return ""
    ratio = fmean(ours) / fmean(theirs)
    return f", replies {percent(abs(ratio - 1), 1)} {'longer' if ratio >= 1 else 'shorter'}"


def _cells(
    rule: GeomeanRatioRule, cells: Sequence[Cell], estimates: Sequence[Estimate], baseline: Baseline
) -> list[RuleResult]:
    from ds4bench.stats.holm import holm_adjust

    adjusted = holm_adjust([_p_worse(rule, estimate) for estimate in estimates])
    results = []
    for cell, estimate, p in zip(cells, estimates, adjusted, strict=True):
        _, bad = _worsening(rule, estimate)
        verdict = Verdict.PASS if bad <= 1 + rule.cell_margin else Verdict.INCONCLUSIVE
        verdict = Verdict.FAIL if p <= _ALPHA else verdict
        text = f"{change(rule.metric, estimate)} than {baseline.name}; limit of a cell {limit(rule.cell_margin)}"
        sentence = f"{cell.id}: {text}; p {p:.2g} (Holm): {verdict}"
        results.append(
            RuleResult(
                rule=rule.name, verdict=verdict, sentence=sentence, cell=cell.id, primary=False,
                margin=rule.cell_margin, estimate=estimate,
            )
        )  # fmt: skip
    return results


def _p_worse(rule: GeomeanRatioRule, estimate: Estimate) -> float:
    """One-sided p of "the cell is worse by no more than its margin", from the interval's own half width and t."""
    from scipy.special import stdtr, stdtrit

    freedom = estimate.candidate_repeats - 1
    half = math.log(estimate.high / estimate.ratio)
    sign = 1 if rule.direction == "lower_is_better" else -1
    beyond = sign * math.log(estimate.ratio) - math.log1p(rule.cell_margin)
    if half <= 0:  # neither repeats nor sessions differ
        return 0.0 if beyond > 0 else 1.0
    error = half / float(stdtrit(freedom, 0.5 + _CONFIDENCE / 2))
    return float(stdtr(freedom, -beyond / error))


def _worsening(rule: GeomeanRatioRule, estimate: Estimate) -> tuple[float, float]:
    """(good end, bad end) of the interval as "times worse"."""
    if rule.direction == "lower_is_better":
        return estimate.low, estimate.high
    return 1 / estimate.high, 1 / estimate.low


def _undecided(rule: GeomeanRatioRule, why: str) -> RuleResult:
    return RuleResult(rule=rule.name, verdict=Verdict.INCONCLUSIVE, sentence=f"{why}: INCONCLUSIVE", margin=rule.margin)
