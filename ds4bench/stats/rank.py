"""Mann-Whitney's rank test of two samples, as a report beside a verdict, never as one.

H. B. Mann and D. R. Whitney, Annals of Mathematical Statistics 18, 1947. With three repeats a side its two-sided
p cannot fall under 0.10 whatever the change (``smallest_p``), so it decides nothing here; Google benchmark's
compare.py warns under nine repetitions for the same reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class RankReport:
    """``superiority``: chance that a random candidate value is larger than a random baseline value (ties half).

    It is U / (n m), the "common language" effect size (Vargha and Delaney's A, Journal of Educational and
    Behavioral Statistics 25, 2000); 0.5 is no effect. ``smallest_p`` is the p of samples that do not overlap.
    """

    u: float
    p: float
    superiority: float
    smallest_p: float


def rank_report(candidate: ArrayLike, baseline: ArrayLike) -> RankReport:
    """Two-sided test of two flat samples, in any unit; exact up to 8 values a side without ties (scipy's rule)."""
    from scipy.stats import mannwhitneyu

    ours, theirs = np.asarray(candidate, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.ndim != 1 or theirs.ndim != 1 or not ours.size or not theirs.size:
        raise ValueError("both samples must be flat and not empty")
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise ValueError("a value is not a finite number")
    smallest = 2 / math.comb(ours.size + theirs.size, ours.size)
    if np.ptp(np.concatenate([ours, theirs])) == 0:  # no order at all: the normal form divides by zero
        return RankReport(ours.size * theirs.size / 2, 1.0, 0.5, min(smallest, 1.0))
    result = mannwhitneyu(ours, theirs, alternative="two-sided")
    u = float(result.statistic)
    return RankReport(u, float(result.pvalue), u / (ours.size * theirs.size), min(smallest, 1.0))
