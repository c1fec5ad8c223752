"""Did this side of the measurement do what it says?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import failed, ok
from ds4bench.verdicts.evidence import Batch, Evidence
from ds4bench.verdicts.wording import percent

if TYPE_CHECKING:
    from ds4bench.spec.gate import GateSpec, ValiditySpec
    from ds4bench.spec.rules import LimitRule

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
    """The client itself was quick enough to be believed: its lag is small against what it measured and what is judged.

    Compared are the 99th percentile of the event loop's lag and the latest start of a request with the batch's median TTFT,
    and the lag with the median gap between chunks where there are enough gaps. A lag that one of them cannot bear fails the
    run where a rule compares times from a request's start, or times of chunks; elsewhere it is said. A ``limit`` on times is
    absolute: the lag is held against the limit, the longest lag where the limit is on the longest time; not where typical
    times are beyond it.
    """
    limits, judged = evidence.spec.validity, _judged(evidence.spec)
    bounds = [bound for rule in evidence.spec.rules if rule.kind == "limit" and (bound := _bound(rule))]
    lags = [(batch, lag) for batch in evidence.batches for lag in _client_lags(batch, limits, bounds)]
    starved = [(batch, lag) for batch, lag in lags if lag.share > 1]
    fatal = [(batch, lag) for batch, lag in starved if lag.of in judged]
    if fatal:
        batch, lag = max(fatal, key=_share)
        sentence = f"the client was starved: {lag.detail} in {batch.cell.id}; free some CPU for it"
        return failed("client_not_starved", sentence, [batch for batch, _ in fatal])
    worst = max((lag.share for _, lag in lags if lag.of in judged), default=0.0)
    sentence = f"client lag at most {percent(worst)} of what is allowed"
    if starved:
        batch, lag = max(starved, key=_share)
        borne = [bound.rule.measure for bound in bounds if bound.scale == lag.of]
        why = f"{', '.join(borne)} is judged by a limit that bears it" if borne else "no rule judges them"
        times = "single chunk gaps" if lag.of == "chunk gap" else "times to first tokens"
        sentence += f"; {times} of {batch.cell.id} are not to be trusted ({lag.detail}), {why}"
    return ok("client_not_starved", sentence)


@dataclass(frozen=True)
class _Bound:
    """A limit on times as milliseconds, and whether it is on times to first tokens or on times between chunks."""

    rule: LimitRule
    ms: float
    scale: Literal["TTFT", "chunk gap"]


@dataclass(frozen=True)
class _Lag:
    """A way in which the client was late: lag / allowed lag, in words, and which times it spoils."""

    share: float
    detail: str
    of: Literal["TTFT", "chunk gap", "limit"]


def _share(found: tuple[Batch, _Lag]) -> float:
    return found[1].share


def _judged(spec: GateSpec) -> set[str]:
    """Which times rules judge: by a limit, from a request's start on (TTFT and whole replies), between single chunks."""
    kinds = {"limit"}
    for rule in spec.rules:
        if rule.kind in ("ratio", "geomean_ratio"):
            kinds.add("chunk gap" if rule.metric in ("tpot_ms", "tpot_decode_ms") else "TTFT")
        elif rule.kind == "scaling":
            kinds.add("chunk gap" if rule.measure == "decode_tok_s" else "TTFT")
    return kinds


def _bound(rule: LimitRule) -> _Bound | None:
    """The limit as a time; None where it is not on times of tokens, or is 0."""
    value = rule.at_most or rule.at_least
    if not value:
        return None
    if rule.measure.startswith("ttft_"):
        return _Bound(rule, 1000 * value, "TTFT")
    if rule.measure.startswith(("tpot_", "itl_")):
        return _Bound(rule, value, "chunk gap")
    return _Bound(rule, 1000 / value, "chunk gap") if rule.measure == "decode_tok_s" else None


def _client_lags(batch: Batch, limits: ValiditySpec, bounds: Sequence[_Bound]) -> Iterator[_Lag]:
    """Each way in which the client can be late in a batch."""
    health, ttft_ms, gap_ms = batch.row.health, _ttft_ms(batch), _gap_ms(batch)
    shares = {"TTFT": limits.max_client_lag_share_ttft, "chunk gap": limits.max_client_lag_share_gap}
    for lag_ms, what, scale_ms, name in (
        (health.heartbeat_lag_p99_ms, "event-loop lag", ttft_ms, "TTFT"),
        (health.lateness_max_ms, "late start", ttft_ms, "TTFT"),
        (health.heartbeat_lag_p99_ms, "event-loop lag", gap_ms, "chunk gap"),
    ):
        if scale_ms is not None:
            allowed = f"{percent(shares[name])} of the {name} of {scale_ms:.1f} ms"
            detail = f"{lag_ms:.1f} ms {what} against {allowed} allowed"
            yield _Lag(lag_ms / scale_ms / shares[name], detail, "TTFT" if name == "TTFT" else "chunk gap")
    typical_ms = {"TTFT": ttft_ms or 0.0, "chunk gap": gap_ms or 0.0}
    for bound in bounds:
        if typical_ms[bound.scale] > bound.ms:
            continue  # far beyond its limit without the client's help: what was said of the typical time above is enough
        longest = "_max_" in bound.rule.measure
        lag_ms = health.heartbeat_lag_max_ms if longest else health.heartbeat_lag_p99_ms
        what = "longest event-loop lag" if longest else "event-loop lag"
        allowed = f"{percent(shares[bound.scale])} of the limit of {bound.ms:,.0f} ms on {bound.rule.measure}"
        yield _Lag(
            lag_ms / bound.ms / shares[bound.scale], f"{lag_ms:.1f} ms {what} against {allowed} allowed", "limit"
        )


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
