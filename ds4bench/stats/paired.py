"""Paired comparison of two builds on the same items: pass/fail answers and fractional scores.

Pairing removes what the items have in common (Miller, "Adding Error Bars to Evals", arXiv:2411.00640): only
items on which the two builds differ carry evidence. Differences are candidate minus baseline, so that a loss
is negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
EXACT_SIGN_FLIPS = 16
"""Up to this many items that differ, all 2^n sign flips are enumerated."""


@dataclass(frozen=True)
class PairedCounts:
    """Items by outcome: ``lost`` the baseline passed and the candidate failed, ``won`` the other way round."""

    both: int
    lost: int
    won: int
    neither: int

    @property
    def items(self) -> int:
        """All items."""
        return self.both + self.lost + self.won + self.neither

    @property
    def difference(self) -> float:
        """Share passed, candidate minus baseline."""
        return (self.won - self.lost) / self.items


@dataclass(frozen=True)
class Interval:
    """A difference (candidate minus baseline) with a two-sided interval."""

    difference: float
    low: float
    high: float


def paired_counts(candidate: ArrayLike, baseline: ArrayLike) -> PairedCounts:
    """Counts of two boolean (or 0/1) arrays [items] in the same order. ValueError if they do not pair up."""
    ours, theirs = as_passes(candidate), as_passes(baseline)
    if ours.shape != theirs.shape or ours.size == 0:
        raise ValueError(f"{ours.size} and {theirs.size} items do not pair up")
    both, won = int((ours & theirs).sum()), int((ours & ~theirs).sum())
    lost = int((~ours & theirs).sum())
    return PairedCounts(both, lost, won, ours.size - both - won - lost)


def mcnemar_loss(lost: int, won: int) -> float:
    """Exact one-sided p of "no loss": small when the candidate lost more items than it won.

    McNemar, Psychometrika 12, 1947; exact form: under no change each item that differs is lost or won with
    probability 1/2, so ``lost`` is binomial (lost + won, 1/2). 1.0 when nothing differs.
    """
    from scipy.special import bdtr

    if lost < 0 or won < 0:
        raise ValueError("counts cannot be negative")
    return float(bdtr(won, lost + won, 0.5))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p of "no change": twice the smaller one-sided p, at most 1."""
    return min(1.0, 2 * min(mcnemar_loss(lost, won), mcnemar_loss(won, lost)))


def detectable_loss(items: int, margin: float, fail_alpha: float, power: float = 0.80) -> float | None:
    """The smallest true loss (a share of the items) that FAILs in ``power`` of runs if no other answer changes.

    A FAIL needs McNemar's exact p at ``fail_alpha`` and a loss beyond ``margin``; answers that change both ways hide it, so
    no run sees less than this. None where the items are too few for any FAIL.
    """
    from scipy.special import bdtri

    fewest = max(math.ceil(-math.log2(fail_alpha)), math.floor(margin * items) + 1)
    # bdtri(k, n, y) is the p at which at most k of n have chance y.
    return float(bdtri(fewest - 1, items, 1 - power)) if fewest <= items else None


def tango_z(counts: PairedCounts, difference: float) -> float:
    """Score statistic of "the true difference is ``difference``": standard normal if it is.

    T. Tango, "Equivalence Test and Confidence Interval for the Difference in Proportions for the Paired-Sample
    Design", Statistics in Medicine 17, 1998, 891-908. At 0 it is McNemar's z. ``difference`` in (-1, 1).
    """
    n, won, lost = counts.items, counts.won, counts.lost
    excess = won - lost - n * difference
    variance = n * (2 * constrained_lost(won, lost, n, difference) + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def constrained_lost(won: int, lost: int, items: int, difference: float) -> float:
    """Most likely probability that an item is lost, given that won minus lost has this ``difference`` (Tango)."""
    b = -won - lost + (2 * items - won + lost) * difference
    c = -lost * difference * (1 - difference)
    return max((math.sqrt(max(b * b - 8 * items * c, 0.0)) - b) / (4 * items), 0.0, -difference)


def tango_interval(counts: PairedCounts, confidence: float = 0.90) -> Interval:
    """Two-sided score interval of the paired difference: the differences that Tango's test does not reject."""
    from scipy.optimize import brentq
    from scipy.special import ndtri

    z, point, edge = float(ndtri(0.5 + confidence / 2)), counts.difference, 1 - 1e-9

    def bound(away: float, sign: float) -> float:
        gap: Callable[[float], float] = lambda d: sign * tango_z(counts, d) - z  # noqa: E731
        return float(brentq(gap, point, away)) if abs(point) < edge and gap(away) > 0 else away

    return Interval(point, bound(-edge, 1.0), bound(edge, -1.0))


def paired_bootstrap(
    candidate: ArrayLike, baseline: ArrayLike, *, confidence: float = 0.90, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean score difference with an interval over items; arrays [items] or [items, passes] of any score.

    The item is the unit (passes over the same item are averaged first; the two sides may have different
    numbers). Percentile bootstrap at the t-expanded level of Hesterberg, The American Statistician 69(4), 2015,
    because 15 scenarios are few: level and sqrt(n / (n - 1)) as in ``ratio.py``. Raises ValueError for fewer
    than 3 items.
    """
    from scipy.special import ndtr, stdtrit

    gaps = item_differences(candidate, baseline)
    n = gaps.size
    if n < 3:
        raise ValueError(f"{n} items have no interval, at least 3 are needed")
    tail = float(ndtr(stdtrit(n - 1, 0.5 - confidence / 2)))
    means = gaps[np.random.default_rng(seed).integers(n, size=(resamples, n))].mean(axis=1)
    point = float(gaps.mean())
    low, high = (np.quantile(means, [tail, 1 - tail]) - point) * math.sqrt(n / (n - 1))
    return Interval(point, point + float(low), point + float(high))


def sign_flip_loss(candidate: ArrayLike, baseline: ArrayLike, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """One-sided p of "no loss of score": share of sign flips of the item differences whose sum is as low.

    Fisher's paired randomisation test ("The Design of Experiments", 1935, 21). Exact while at most 16 items
    differ, else by ``resamples`` random flips (p never below 1 / (resamples + 1)).
    """
    gaps = item_differences(candidate, baseline)
    gaps = gaps[gaps != 0]
    seen, tolerance = float(gaps.sum()), 1e-9 * float(np.abs(gaps).sum())
    if gaps.size <= EXACT_SIGN_FLIPS:
        bits = (np.arange(2**gaps.size)[:, None] >> np.arange(gaps.size)) & 1
        return float(((1 - 2 * bits) @ gaps <= seen + tolerance).mean())
    flips = np.random.default_rng(seed).choice([-1.0, 1.0], size=(resamples, gaps.size))
    return (1 + int((flips @ np.abs(gaps) <= seen + tolerance).sum())) / (resamples + 1)


def item_differences(candidate: ArrayLike, baseline: ArrayLike) -> NDArray[np.float64]:
    """Per-item mean of the candidate minus that of the baseline, [items]. ValueError if items do not pair up."""
    sides = [np.asarray(side, dtype=np.float64) for side in (candidate, baseline)]
    means = [side.mean(axis=1) if side.ndim == 2 else side for side in sides]
    if means[0].ndim != 1 or means[0].shape != means[1].shape:
        raise ValueError(f"{len(means[0])} and {len(means[1])} items do not pair up")
    if not all(np.isfinite(side).all() for side in sides):
        raise ValueError("a score is not a finite number")
    return np.asarray(means[0] - means[1])


def as_passes(values: ArrayLike) -> NDArray[np.bool_]:
    """A checked flat array [items] of true (passed) and false; 0 and 1 will do. Raises ValueError."""
    array = np.asarray(values)
    if array.ndim != 1 or not np.isin(array, (0, 1)).all():
        raise ValueError("pass/fail answers must be a flat array of true and false")
    return array.astype(np.bool_)
