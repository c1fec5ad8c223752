"""Did this side of the measurement do what it says?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import failed, ok
from ds4bench.verdicts.evidence import Batch, Evidence
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.gate import ValiditySpec

_ENOUGH_GAPS = 8
"""Fewer chunk gaps than this have no median worth comparing with."""


def delivered_concurrency(evidence: Evidence) -> CheckResult:
    """As many requests were in flight as the cell asks for: at once, or on average while a closed loop was steady."""
    least = evidence.spec.validity.min_delivered_concurrency
    short = [b for b in evidence.batches if b.row.delivered_concurrency < least * b.cell.concurrency]
    if short:
        worst = min(short, key=lambda b: b.row.delivered_concurrency / b.cell.concurrency)
        return failed(
            "delivered_concurrency",
            f"only {worst.row.delivered_concurrency:.3g} of {worst.cell.concurrency} requests were in flight "
            f"together in {worst.cell.id} (at least {percent(least)} must be)",
            short,
        )
    return ok("delivered_concurrency", "all requests of a cell were in flight together")


def client_not_starved(evidence: Evidence) -> CheckResult:
    """The client itself was quick enough to be believed: its lag is small against what it measured.

    Compared are the 99th percentile of the event loop's lag and the latest start of a request with the
    batch's median TTFT, and the lag with the median gap between chunks where there are enough gaps. A lag
    that only the gaps cannot bear fails the run where a rule judges them; elsewhere it is said.
    """
    limits, judged = evidence.spec.validity, _judges_gaps(evidence)
    lags = [(batch, *lag) for batch in evidence.batches for lag in _client_lags(batch, limits)]
    starved = [lag for lag in lags if lag[1] > 1]
    fatal = [lag for lag in starved if judged or not lag[2]]
    if fatal:
        batch, _, _, detail = max(fatal, key=lambda lag: lag[1])
        sentence = f"the client was starved: {detail} in {batch.cell.id}; free some CPU for it"
        return failed("client_not_starved", sentence, [lag[0] for lag in fatal])
    worst = max((lag[1] for lag in lags if judged or not lag[2]), default=0.0)
    sentence = f"client lag at most {percent(worst)} of what is allowed"
    if starved:
        batch, _, _, detail = max(starved, key=lambda lag: lag[1])
        sentence += f"; single chunk gaps of {batch.cell.id} are not to be trusted ({detail}), no rule judges them"
    return ok("client_not_starved", sentence)


def _judges_gaps(evidence: Evidence) -> bool:
    """Whether a rule's metric is made of the times of single chunks, not of the first or of the whole reply."""
    metrics = {rule.metric for rule in evidence.spec.rules if rule.kind in ("ratio", "geomean_ratio")}
    return bool(metrics & {"tpot_ms", "tpot_decode_ms"})


def _client_lags(batch: Batch, limits: ValiditySpec) -> Iterator[tuple[float, bool, str]]:
    """(lag / allowed lag, whether chunk gaps are concerned, in words) of each way in which a client can be late."""
    health, ttft_ms, gap_ms = batch.row.health, _ttft_ms(batch), _gap_ms(batch)
    by_ttft, by_gap = limits.max_client_lag_share_ttft, limits.max_client_lag_share_gap
    for lag_ms, what, scale_ms, name, limit in (
        (health.heartbeat_lag_p99_ms, "event-loop lag", ttft_ms, "TTFT", by_ttft),
        (health.lateness_max_ms, "late start", ttft_ms, "TTFT", by_ttft),
        (health.heartbeat_lag_p99_ms, "event-loop lag", gap_ms, "chunk gap", by_gap),
    ):
        if scale_ms is not None:
            allowed = f"{percent(limit)} of the {name} of {scale_ms:.1f} ms"
            yield lag_ms / scale_ms / limit, name != "TTFT", f"{lag_ms:.1f} ms {what} against {allowed} allowed"


def _ttft_ms(batch: Batch) -> float | None:
    ttft = batch.median_ttft_s()
    return 1000 * ttft if ttft and ttft > 0 else None


def _gap_ms(batch: Batch) -> float | None:
    """Median time between two chunks that did not arrive together; None when there are too few."""
    gaps = [
        1000 * (later - earlier)
        for row in batch.answered
        for earlier, later in pairwise(row.result.chunk_times_s)
        if later > earlier
    ]
    return median(gaps) if len(gaps) >= _ENOUGH_GAPS else None
