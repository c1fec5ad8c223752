"""Per-cell numbers of a run, computed in this one place for reports, limits and JSON.

A rule that compares with a baseline works on the rows themselves (``verdicts/rules``); what is here has no intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median

from ds4bench.core import BatchRow, Cell, RequestResult, RequestRow, RunData, ScriptRow
from ds4bench.prefix_hits import ideal_of

_ENOUGH_FOR_P99 = 100
"""With fewer values the 99th percentile is the maximum."""
_ENOUGH_FOR_P95 = 20
_STAND_INS = {"tpot_decode_ms": "tpot_ms"}
"""By what a request metric is replaced that some serves cannot tell: TPOT_decode needs a running token count
(``continuous_usage_stats``). TPOT counts the first chunk as one token, so it is right only against TPOT."""


@dataclass(frozen=True)
class RoleMeasures:
    """The requests of a cell with one role: mean TTFT in seconds, mean of each request's longest gap between chunks."""

    ttft_s: float | None
    worst_gap_ms: float | None


@dataclass(frozen=True)
class CellMeasures:
    """One cell. Times and rates as the names say, rates in tokens a second; None = not measurable.

    Over requests: ``ttft_*``, ``tpot_*`` (TPOT_decode, else TPOT: ``judged_metric``), ``decode_tok_s`` (1 / mean TPOT),
    ``output_tokens`` (mean of completion tokens), ``itl_*`` (gaps between chunks, of one request after the other; never
    decides).
    Over batches: ``prefill_tok_s`` (prompt tokens over the time in which a first token was awaited), ``output_tok_s``
    (completion tokens over the wall time), ``output_tok_s_steady`` (the same in the steady window of a closed loop),
    ``delivered_concurrency``.
    From the serve's counters, summed over batches: ``acceptance_rate`` (accepted / drafted tokens), ``acceptance_length``
    (tokens a step, 1 + accepted / drafts), ``acceptance_per_position``, ``hit_rate`` (cached / prompt tokens, by usage;
    without usage by counters). ``scores`` are means of the answers' scores by name.
    Where requests say which beginning they repeat (``prefix_hits``): ``ideal_hit_rate`` and ``hit_of_ideal``, the share
    of ideal hits that were made (what a request hits beyond its own ideal does not make up for another).
    ``ttft_ranks_s`` is the mean TTFT by place in the queue, ``roles`` what the requests of each role saw.
    """

    cell: Cell
    requests: int
    failures: int
    ttft_mean_s: float | None = None
    ttft_median_s: float | None = None
    ttft_p99_s: float | None = None
    ttft_max_s: float | None = None
    tpot_mean_ms: float | None = None
    tpot_median_ms: float | None = None
    tpot_p99_ms: float | None = None
    itl_p95_ms: float | None = None
    itl_p99_ms: float | None = None
    itl_max_ms: float | None = None
    prefill_tok_s: float | None = None
    decode_tok_s: float | None = None
    output_tok_s: float | None = None
    output_tok_s_steady: float | None = None
    output_tokens: float | None = None
    delivered_concurrency: float | None = None
    acceptance_rate: float | None = None
    acceptance_length: float | None = None
    acceptance_per_position: tuple[float, ...] = ()
    hit_rate: float | None = None
    ideal_hit_rate: float | None = None
    hit_of_ideal: float | None = None
    ttft_ranks_s: tuple[float, ...] = ()
    roles: dict[str, RoleMeasures] = field(default_factory=dict)
    scores: dict[str, float] | None = None

    @property
    def recall(self) -> float | None:
        """Mean recall, where the workload scores it."""
        return (self.scores or {}).get("recall")


def measured_rows(run: RunData) -> list[RequestRow]:
    """Requests of complete measured batches: the rows that count."""
    complete = {(b.cell, b.repeat, b.attempt) for b in run.batches if b.phase == "measure"}
    return [r for r in run.requests if r.phase == "measure" and (r.cell, r.repeat, r.attempt) in complete]


def measured_scripts(run: RunData) -> list[ScriptRow]:
    """Scripts of complete measured batches."""
    complete = {(b.cell, b.repeat, b.attempt) for b in run.batches if b.phase == "measure"}
    return [s for s in run.scripts if s.phase == "measure" and (s.cell, s.repeat, s.attempt) in complete]


def judged_metric(metric: str, *sides: Iterable[RequestRow]) -> str:
    """The metric that all sides are measured by: ``metric``, or its stand-in for all where one side never tells it.

    A side tells a metric when one of its answered requests has it. Where the stand-in is missing too it stays ``metric``.
    """
    stand_in = _STAND_INS.get(metric)
    answered = [[row.result for row in side if row.result.ok] for side in sides]
    if stand_in is None or all(_told(side, metric) for side in answered):
        return metric
    return stand_in if all(_told(side, stand_in) for side in answered) else metric


def _told(results: Iterable[RequestResult], metric: str) -> bool:
    return any(getattr(result, metric) is not None for result in results)


def run_measures(cells: Sequence[Cell], run: RunData) -> list[CellMeasures]:
    """The measures of each cell of a run, in the order of ``cells``."""
    return cell_measures(cells, measured_rows(run), run.batches, measured_scripts(run))


def cell_measures(
    cells: Sequence[Cell],
    rows: Iterable[RequestRow],
    batches: Iterable[BatchRow] = (),
    scripts: Iterable[ScriptRow] = (),
) -> list[CellMeasures]:
    """The measures of each cell, in the order of ``cells``. Without batches and scripts what needs them is None."""
    by_cell: dict[str, list[RequestRow]] = {cell.id: [] for cell in cells}
    for row in rows:
        by_cell.setdefault(row.cell, []).append(row)
    of_cell: dict[str, list[BatchRow]] = {}
    for batch in batches:
        if batch.phase == "measure":
            of_cell.setdefault(batch.cell, []).append(batch)
    answered: dict[str, list[ScriptRow]] = {}
    for script in scripts:
        answered.setdefault(script.cell, []).append(script)
    return [_measures(c, by_cell[c.id], of_cell.get(c.id, []), answered.get(c.id, [])) for c in cells]


def _measures(cell: Cell, rows: list[RequestRow], batches: list[BatchRow], scripts: list[ScriptRow]) -> CellMeasures:
    good = [row for row in rows if row.result.ok]
    ttft = [row.result.ttft_s for row in good if row.result.ttft_s is not None]
    per_token = judged_metric("tpot_decode_ms", good)
    tpot = [t for row in good if (t := getattr(row.result, per_token))]
    gaps = [1000 * (b - a) for row in good for a, b in pairwise(row.result.chunk_times_s)]
    made = [row.result.completion_tokens for row in good if row.result.completion_tokens is not None]
    counters = _summed(batches)
    drafts, drafted = counters.get("spec_drafts", 0.0), counters.get("spec_draft_tokens", 0.0)
    accepted = counters.get("spec_accepted_tokens", 0.0)
    return CellMeasures(
        cell=cell,
        requests=len(rows),
        failures=len(rows) - len(good),
        ttft_mean_s=fmean(ttft) if ttft else None,
        ttft_median_s=median(ttft) if ttft else None,
        ttft_p99_s=_percentile(ttft, 0.99, _ENOUGH_FOR_P99),
        ttft_max_s=max(ttft, default=None),
        tpot_mean_ms=fmean(tpot) if tpot else None,
        tpot_median_ms=median(tpot) if tpot else None,
        tpot_p99_ms=_percentile(tpot, 0.99, _ENOUGH_FOR_P99),
        itl_p95_ms=_percentile(gaps, 0.95, _ENOUGH_FOR_P95),
        itl_p99_ms=_percentile(gaps, 0.99, _ENOUGH_FOR_P99),
        itl_max_ms=max(gaps, default=None),
        prefill_tok_s=_prefill(good),
        decode_tok_s=1000 / fmean(tpot) if tpot else None,
        output_tok_s=_rate(sum(made), sum(batch.wall_s for batch in batches)),
        output_tok_s_steady=_steady_rate(good, batches),
        output_tokens=fmean(made) if made else None,
        delivered_concurrency=fmean(b.delivered_concurrency for b in batches) if batches else None,
        acceptance_rate=accepted / drafted if drafted else None,
        acceptance_length=1 + accepted / drafts if drafts else None,
        acceptance_per_position=_per_position(counters, drafts),
        hit_rate=_hit_rate(good, counters),
        **_ideal_hits(good),
        ttft_ranks_s=_ranks(good),
        roles=_roles(good),
        scores=_scores(good, scripts),
    )


def score_values(name: str, rows: Iterable[RequestRow], scripts: Iterable[ScriptRow]) -> list[float]:
    """All values of one score, of the answers of requests and of scripts."""
    answers = [row.answer for row in rows] + [script.answer for script in scripts]
    return [answer.scores[name] for answer in answers if answer is not None and name in answer.scores]


def _scores(rows: list[RequestRow], scripts: list[ScriptRow]) -> dict[str, float] | None:
    answers = [row.answer for row in rows] + [script.answer for script in scripts]
    names = sorted({name for answer in answers if answer is not None for name in answer.scores})
    return {name: fmean(score_values(name, rows, scripts)) for name in names} or None


def _percentile(values: list[float], share: float, enough: int) -> float | None:
    """Nearest rank; None when there are so few values that it says nothing."""
    if len(values) < enough:
        return None
    return sorted(values)[max(0, -int(-share * len(values) // 1) - 1)]


def _rate(tokens: float, seconds: float) -> float | None:
    return tokens / seconds if tokens and seconds > 0 else None


def _prefill(rows: list[RequestRow]) -> float | None:
    batches: dict[int, list[RequestRow]] = {}
    for row in rows:
        batches.setdefault(row.repeat, []).append(row)
    rates = []
    for batch in batches.values():
        tokens = sum(row.result.prompt_tokens or 0 for row in batch)
        starts = [(row.result.start_s, row.result.start_s + (row.result.ttft_s or 0.0)) for row in batch]
        waited = _covered(starts)
        if tokens and waited:
            rates.append(tokens / waited)
    return fmean(rates) if rates else None


def _covered(intervals: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def _steady_rate(rows: list[RequestRow], batches: list[BatchRow]) -> float | None:
    """Completion tokens a second inside the steady windows."""
    windows = {b.repeat: (b.steady_start_s, b.steady_end_s) for b in batches}
    tokens = seconds = 0.0
    for repeat, (start, end) in windows.items():
        if start is None or end is None:
            continue
        seconds += end - start
        tokens += sum(tokens_between(row, start, end) for row in rows if row.repeat == repeat)
    return _rate(tokens, seconds)


def tokens_between(row: RequestRow, start_s: float, end_s: float) -> float:
    """Completion tokens of a request that came between two instants after the barrier.

    Its first chunk's tokens came at the TTFT, the others are taken as spread evenly up to the last.
    """
    result = row.result
    total, ttft, e2e = result.completion_tokens, result.ttft_s, result.e2e_s
    if not total or ttft is None or e2e is None:
        return 0.0
    first = min(result.first_chunk_tokens or 1, total)
    begin, finish = result.start_s + ttft, result.start_s + e2e
    inside = float(first) if start_s <= begin <= end_s else 0.0
    overlap = min(end_s, finish) - max(start_s, begin)
    return inside + ((total - first) * overlap / (finish - begin) if finish > begin and overlap > 0 else 0.0)


def _summed(batches: list[BatchRow]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for batch in batches:
        for name, value in batch.counters.items():
            totals[name] = totals.get(name, 0.0) + value
    return totals


def _per_position(counters: dict[str, float], drafts: float) -> tuple[float, ...]:
    """Share of drafts whose token at this place was accepted, place by place."""
    shares: list[float] = []
    while drafts and f"spec_accepted_at_{len(shares)}" in counters:
        shares.append(counters[f"spec_accepted_at_{len(shares)}"] / drafts)
    return tuple(shares)


def _hit_rate(rows: list[RequestRow], counters: dict[str, float]) -> float | None:
    told = [row.result for row in rows if row.result.cached_tokens is not None and row.result.prompt_tokens]
    if told:
        return sum(result.cached_tokens or 0 for result in told) / sum(result.prompt_tokens or 0 for result in told)
    queries = counters.get("prefix_cache_queries") or counters.get("prompt_tokens")
    return counters["prefix_cache_hits"] / queries if queries and "prefix_cache_hits" in counters else None


def _ideal_hits(rows: list[RequestRow]) -> dict[str, float | None]:
    """The ideal hit rate, and what was hit of it; both None unless every request says what they follow from."""
    ideals = [ideal_of(row) for row in rows]
    known = [ideal for ideal in ideals if ideal is not None]
    prompt = sum(row.result.prompt_tokens or 0 for row in rows)
    if not known or len(known) < len(rows) or not prompt:
        return {"ideal_hit_rate": None, "hit_of_ideal": None}
    told = all(row.result.cached_tokens is not None for row in rows)
    hit = sum(min(row.result.cached_tokens or 0, most) for row, most in zip(rows, known, strict=True))
    ideal = sum(known)
    share = hit / ideal if ideal and told else None
    return {"ideal_hit_rate": ideal / prompt, "hit_of_ideal": share}


def _ranks(rows: list[RequestRow]) -> tuple[float, ...]:
    """Mean TTFT of the requests that were served first, second, ... of those that started together."""
    batches: dict[int, list[float]] = {}
    for row in rows:
        if row.turn == 0 and row.result.ttft_s is not None:
            batches.setdefault(row.repeat, []).append(row.result.ttft_s)
    queues = [sorted(batch) for batch in batches.values()]
    return tuple(fmean(places) for places in zip(*queues, strict=False))


def _roles(rows: list[RequestRow]) -> dict[str, RoleMeasures]:
    roles: dict[str, list[RequestRow]] = {}
    for row in rows:
        if "role" in row.expect:
            roles.setdefault(str(row.expect["role"]), []).append(row)
    return {role: _role(of_role) for role, of_role in sorted(roles.items())}


def _role(rows: list[RequestRow]) -> RoleMeasures:
    ttft = [row.result.ttft_s for row in rows if row.result.ttft_s is not None]
    gaps = [
        max(1000 * (b - a) for a, b in pairwise(times)) for row in rows if len(times := row.result.chunk_times_s) > 1
    ]
    return RoleMeasures(fmean(ttft) if ttft else None, fmean(gaps) if gaps else None)
