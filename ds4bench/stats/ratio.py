"""Ratio of two groups of repeated runs, with an interval that is honest for three runs a side.

The repeat is the unit of evidence, because the requests of a repeat share batches, clocks and neighbours
(Kalibera and Jones, "Quantifying Performance Changes with Effect Size Confidence Intervals",
arXiv:2007.10899: repeat at the level where the variance is). Everything is done on logarithms, so that "10 %
slower" and "10 % faster" weigh the same and the interval of B/A is that of A/B turned over.

Two sources of noise enter, and they add in quadrature because they are independent:

1. Between repeats, from the data: a bootstrap of the repeats' residuals. The residuals of both sides are
   pooled (same gate, same hardware; Davison and Hinkley, "Bootstrap Methods and their Application", 1997,
   3.3), scaled by sqrt(n / (n - 2)) so that their variance is the unbiased one, and resampled. With three
   repeats a plain percentile interval is far too narrow, so the level is widened from the normal's to that of
   Student's t with n - 2 degrees of freedom: the "expanded percentile" interval of Hesterberg, "What Teachers
   Should Know About the Bootstrap", The American Statistician 69(4), 2015, 371-386. The half width is the
   quantile of the absolute deviation, which makes the interval symmetric in the logarithm (Hall, "On
   Symmetric Bootstrap Confidence Intervals", JRSS B 50(1), 1988). Four to six residuals cannot always reach
   that far into the tail, so it is never less than the half width of the pooled two-sample t interval.
2. Between sessions, as a stated prior: repeats of one session cannot see what a restart changes. Candidate
   and baseline are one session each, hence sqrt(2) x ``session_cv`` with the normal quantile.

A two-sided 90 % interval is two one-sided tests at 5 % (Schuirmann, J. Pharmacokinetics and Biopharmaceutics
15, 1987): the bad end decides PASS, the good end FAIL.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ds4bench.core import Estimate

CONFIDENCE = 0.90
RESAMPLES = 20_000
LEAST_REPEATS = 4
"""Of both sides together: with fewer there is one degree of freedom at most."""


def ratio_estimate(
    candidate: ArrayLike,
    baseline: ArrayLike,
    *,
    session_cv: float,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Ratio candidate / baseline of arrays [repeats, strata] of positive values, in any unit.

    Strata (for example cell x queue rank) are the same on both sides and weigh the same; a repeat's value is
    the geometric mean over its strata. ``noise_cv`` of the result is the measured spread of repeats (a
    relative standard deviation, pooled over both sides); ``session_cv`` is in the interval but not in it.
    Raises ValueError for values that are not positive and finite, for different strata, and for fewer than
    ``LEAST_REPEATS`` repeats.
    """
    ours, theirs = log_levels(candidate, "candidate"), log_levels(baseline, "baseline")
    if np.shape(candidate)[1] != np.shape(baseline)[1]:
        raise ValueError("candidate and baseline have different strata")
    total = len(ours) + len(theirs)
    if total < LEAST_REPEATS:
        raise ValueError(f"{total} repeats in all show no noise, at least {LEAST_REPEATS} are needed")
    residuals = np.concatenate([side - side.mean() for side in (ours, theirs)])
    difference = float(ours.mean() - theirs.mean())
    repeats = _bootstrap_half_width(residuals, (len(ours), len(theirs)), confidence, resamples, seed)
    half = math.hypot(repeats, session_half_width(session_cv, confidence))
    return Estimate(
        ratio=math.exp(difference),
        low=math.exp(difference - half),
        high=math.exp(difference + half),
        noise_cv=float(np.sqrt((residuals**2).sum() / (total - 2))),
        candidate=math.exp(ours.mean()),
        baseline=math.exp(theirs.mean()),
        candidate_repeats=len(ours),
        baseline_repeats=len(theirs),
    )


def session_half_width(session_cv: float, confidence: float = CONFIDENCE) -> float:
    """Half width in log units from session noise alone: no number of repeats makes the interval narrower."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2) * math.sqrt(2) * session_cv)


def log_levels(values: ArrayLike, name: str, rows: str = "repeats") -> NDArray[np.float64]:
    """Mean logs over the strata of an array ``[rows, strata]``; raises ValueError that calls it ``name``."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} must be an array [{rows}, strata] that is not empty")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise ValueError(f"{name} has values that are not positive and finite")
    return np.asarray(np.log(array).mean(axis=1))


def _bootstrap_half_width(
    residuals: NDArray[np.float64], repeats: tuple[int, int], confidence: float, resamples: int, seed: int
) -> float:
    """The t-expanded quantile of |difference of two means| of resampled residuals, at least Student's own."""
    from scipy.special import ndtr, stdtrit

    (ours, theirs), total = repeats, sum(repeats)
    t = float(stdtrit(total - 2, 0.5 + confidence / 2))
    scaled = residuals * math.sqrt(total / (total - 2))
    draws = scaled[np.random.default_rng(seed).integers(total, size=(resamples, total))]
    deviation = draws[:, :ours].mean(axis=1) - draws[:, ours:].mean(axis=1)
    bootstrap = float(np.quantile(np.abs(deviation), 1 - 2 * float(ndtr(-t))))
    student = t * float(np.sqrt((scaled**2).mean())) * math.sqrt(1 / ours + 1 / theirs)
    return max(bootstrap, student)
