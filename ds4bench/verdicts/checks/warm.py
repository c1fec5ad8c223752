"""Was the serve warm when its times were taken?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean

from ds4bench.core import CheckResult, RequestRow
from ds4bench.verdicts.checks.results import not_applicable, ok, unverified
from ds4bench.verdicts.evidence import Batch, Evidence, cells_of

_FACTOR = 1.5
_FACTOR_OF_ONE = 3.0
"""Where there are too few other batches to have a spread."""
_SPREADS = 3.0
_ENOUGH_FOR_A_SPREAD = 3
_LEAST_S = {"TTFT": 0.25, "time per token": 0.002}
"""Less than this is what a machine may do by itself. A token's share is small: compiling meets the first of many."""


def warmed_up(evidence: Evidence) -> CheckResult:
    """No cell's first measured batch is far slower than all its others: kernels compiled and graphs captured in it.

    Compared are the batch means of TTFT and of the time per token, since means are what rules compare. An outlier lies
    beyond the slowest of the other batches by half of it, by three times their spread and by a time that no quiet machine
    wastes; one or two others have no spread, there it takes three times as long. A slow batch later on is no cold start. The
    run is not INVALID, because nobody can tell a compilation from a neighbour, but such a cell decides nothing. One repeat
    has nothing to compare with.
    """
    name = "warmed_up"
    cells = {cell: [b for b in evidence.batches if b.cell.id == cell] for cell in cells_of(evidence.batches)}
    several = {cell: batches for cell, batches in cells.items() if len(batches) > 1}
    if not several:
        return not_applicable(name, "one repeat: there is nothing to compare a cell's first batch with")
    outliers = [found for batches in several.values() for found in _outliers(batches)]
    if not outliers:
        return ok(name, f"the first batch of {len(several)} cells is no outlier among its repeats")
    worst = max(outliers, key=lambda found: found.first_s / found.slowest_s)
    warmup = evidence.spec.warmup.requests_per_cell
    advice = (
        "no warm-up was asked for: set warmup.requests_per_cell" if warmup == 0
        else "compilation, or a neighbour, in spite of the warm-up: measure again, with a larger warmup.requests_per_cell"
    )  # fmt: skip
    detail = (
        f"the first batch of {', '.join(cells_of(found.batch for found in outliers))} is an outlier: {worst.words} in "
        f"{worst.batch.cell.id}; {advice}"
    )
    return unverified(name, detail, [found.batch for found in outliers])


@dataclass(frozen=True)
class _Outlier:
    """A first batch whose mean time of some kind, in seconds, lies far beyond the slowest of the others."""

    batch: Batch
    kind: str
    first_s: float
    slowest_s: float

    @property
    def words(self) -> str:
        """What was seen."""
        first, slowest = (f"{1000 * seconds:,.0f} ms" for seconds in (self.first_s, self.slowest_s))
        return f"a mean {self.kind} of {first}, of at most {slowest} in its other batches"


def _outliers(batches: list[Batch]) -> Iterator[_Outlier]:
    """By each kind of time that all batches of the cell have. ``batches`` are in the order of the repeats."""
    for kind, read in _READERS.items():
        means = [_mean_s(batch, read) for batch in batches]
        known = [mean for mean in means if mean is not None]
        if len(known) < len(means):
            continue
        first, others = known[0], known[1:]
        slowest = max(others)
        spread_known = len(others) >= _ENOUGH_FOR_A_SPREAD
        beyond = max(
            (_FACTOR if spread_known else _FACTOR_OF_ONE) * slowest,
            slowest + _SPREADS * (slowest - min(others)),
            slowest + _LEAST_S[kind],
        )
        if slowest > 0 and first > beyond:
            yield _Outlier(batches[0], kind, first, slowest)


def _ttft_s(row: RequestRow) -> float | None:
    return row.result.ttft_s


def _token_s(row: RequestRow) -> float | None:
    return None if row.result.tpot_ms is None else row.result.tpot_ms / 1000


_READERS: dict[str, Callable[[RequestRow], float | None]] = {"TTFT": _ttft_s, "time per token": _token_s}


def _mean_s(batch: Batch, read: Callable[[RequestRow], float | None]) -> float | None:
    values = [value for row in batch.answered if (value := read(row)) is not None]
    return fmean(values) if values else None
