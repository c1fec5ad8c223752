"""Whether a machine was as fast for one run as for another, by a fixed probe before every batch: shown, not assumed.

A drift within the allowed one is not enough where the probe differs from batch to batch, as it does when a neighbour comes
and goes: then two means agree by chance while the times between the probes do not. So the whole interval of their ratio
must lie within the allowed drift (two one-sided tests: Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987), by the
statistics of the repeats (``ratio.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEAST_PROBES = 4
"""Of both runs together: with fewer only their means are compared."""
_RESAMPLES = 2_000


@dataclass(frozen=True)
class Speed:
    """Probe time of one run against another's: above 1 the machine was slower. ``low`` to ``high``: 90 %."""

    ratio: float
    low: float
    high: float

    def within(self, drift: float) -> bool:
        """Whether the machine is shown to have been as fast, up to ``drift`` either way."""
        return max(self.high, 1 / self.low) - 1 <= drift

    def beyond(self, drift: float) -> bool:
        """Whether the means themselves are too far apart."""
        return max(self.ratio, 1 / self.ratio) - 1 > drift


def speed(ours: Sequence[float], theirs: Sequence[float]) -> Speed:
    """Of two runs' probes [batches], positive and in one unit. Raises ValueError if one has none."""
    from statistics import geometric_mean

    from ds4bench.stats.ratio import ratio_estimate

    if not ours or not theirs:
        raise ValueError("no probe of one of the runs")
    if len(ours) + len(theirs) < LEAST_PROBES:
        ratio = geometric_mean(ours) / geometric_mean(theirs)
        return Speed(ratio, ratio, ratio)
    found = ratio_estimate([[x] for x in ours], [[x] for x in theirs], session_cv=0.0, resamples=_RESAMPLES)
    return Speed(found.ratio, found.low, found.high)
