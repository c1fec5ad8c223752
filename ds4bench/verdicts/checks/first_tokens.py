"""Are the first tokens that the client timed those that the serve timed itself?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ds4bench.core import CheckResult
from ds4bench.verdicts.checks.results import failed, not_applicable, ok
from ds4bench.verdicts.evidence import Batch, Evidence, cells_of

SECONDS, COUNT = "ttft_seconds_sum", "ttft_seconds_count"
"""Canonical names of the sum and the count of the serve's own TTFT histogram (targets/dialect.py)."""
_LEAST_SHARE = 0.8
"""Engines take the first token's time at different places of a step; a chunk that is no token comes far earlier than that."""
_FAR_S, _FAR_SHARE = 0.05, 0.2
"""More than a network on one site and a frontend add."""


def ttft_sources_agree(evidence: Evidence) -> CheckResult:
    """The client's mean TTFT of a batch is not under that of the serve's own histogram.

    The client's clock starts before the request reaches the serve and stops after the first token has left it, so a smaller
    value is impossible: a wrong clock, or a first chunk that was no token. A larger one is the network and whatever stands
    in front of the serve, which may be what is measured: it is said and fails nothing. A batch of which the histogram counted
    other requests too, or not all, says nothing.
    """
    name = "ttft_sources_agree"
    told = [_Means.of(batch) for batch in evidence.batches if _counted_alone(batch)]
    if not told:
        return not_applicable(name, "the serve has no TTFT histogram (or it counted other requests than these)")
    wrong = [means for means in told if means.client_s < _LEAST_SHARE * means.serve_s]
    if wrong:
        worst = min(wrong, key=lambda means: means.client_s / means.serve_s)
        detail = (
            f"impossible: a mean TTFT of {_ms(worst.client_s)} here, of {_ms(worst.serve_s)} by the serve's own histogram, "
            f"in {worst.batch.cell.id}; the first chunk was no token, or a clock is wrong"
        )
        return failed(name, detail, [means.batch for means in wrong])
    apart = fmean(means.client_s - means.serve_s for means in told)
    side = "above" if apart >= 0 else "under"
    sentence = f"the client's mean TTFT is {_ms(abs(apart))} {side} the serve's own in {len(told)} batches"
    return ok(name, sentence + _far_above(told))


@dataclass(frozen=True)
class _Means:
    """Mean TTFT of the requests of a batch in seconds, by the client and by the serve."""

    batch: Batch
    client_s: float
    serve_s: float

    @classmethod
    def of(cls, batch: Batch) -> _Means:
        counters = batch.row.counters
        client_s = fmean(row.result.ttft_s or 0.0 for row in batch.requests)
        return cls(batch, client_s, counters[SECONDS] / counters[COUNT])


def _counted_alone(batch: Batch) -> bool:
    """Whether the serve timed the first tokens of exactly these requests."""
    counters = batch.row.counters
    timed = [row for row in batch.answered if row.result.ttft_s is not None]
    return SECONDS in counters and 0 < len(timed) == len(batch.requests) == counters.get(COUNT)


def _far_above(told: Sequence[_Means]) -> str:
    """The cells in which something stands between client and serve, a clause; empty without one."""
    far = [m for m in told if m.client_s - m.serve_s > max(_FAR_S, _FAR_SHARE * m.serve_s)]
    if not far:
        return ""
    most, cells = max(far, key=lambda means: means.client_s - means.serve_s), cells_of(means.batch for means in far)
    more = f"up to {_ms(most.client_s - most.serve_s)} more than its {_ms(most.serve_s)} in {', '.join(cells)}"
    return f"; {more}: the network, a proxy or a queue in front of it"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"
