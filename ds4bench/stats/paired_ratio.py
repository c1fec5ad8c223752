"""Ratio of runs that were measured side by side, block by block (A B B A ...): Student's t of the blocks' log ratios.

A block is one repeat of each side, run one after the other; whatever the machine does more slowly than a block lasts
(clocks, neighbours, temperature) is in both sides and cancels in the difference, and the order that alternates lets a
linear drift cancel over two blocks. One block is one observation, so n blocks have n - 1 degrees of freedom (Student, "The
Probable Error of a Mean", Biometrika 6(1), 1908; Box, Hunter and Hunter, "Statistics for Experimenters", 2nd ed., 2005,
3.2: the paired comparison and why its order is alternated or randomised).

What pairs cannot see is what a start of the serve fixes for its life (placement of memory, compiled kernels): the session
noise, which enters in quadrature as in ``ratio.py``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ds4bench.core import Estimate
from ds4bench.stats.ratio import CONFIDENCE, log_levels, session_half_width

LEAST_PAIRS = 3
"""Two pairs have one degree of freedom: their interval at one-sided 1 % is 32 standard errors wide."""


def paired_ratio(
    candidate: ArrayLike, baseline: ArrayLike, *, session_cv: float, confidence: float = CONFIDENCE
) -> Estimate:
    """Ratio candidate / baseline of arrays [blocks, strata] of positive values, row i of both from the same block.

    A block's value is the geometric mean over its strata. ``noise_cv`` of the result is that of one side's repeat: the
    spread of the differences over sqrt(2), so that it reads like the one of ``ratio_estimate``. Raises ValueError for
    values that are not positive and finite, for different shapes and for fewer than ``LEAST_PAIRS`` blocks.
    """
    from scipy.special import stdtrit

    ours, theirs = log_levels(candidate, "candidate", "blocks"), log_levels(baseline, "baseline", "blocks")
    if np.shape(candidate) != np.shape(baseline):
        raise ValueError(
            f"candidate and baseline are not paired: {np.shape(candidate)} and {np.shape(baseline)} values"
        )
    blocks = len(ours)
    if blocks < LEAST_PAIRS:
        raise ValueError(f"{blocks} pairs show no noise, at least {LEAST_PAIRS} are needed")
    differences = ours - theirs
    mean, spread = float(differences.mean()), float(differences.std(ddof=1))
    t = float(stdtrit(blocks - 1, 0.5 + confidence / 2))
    half = math.hypot(t * spread / math.sqrt(blocks), session_half_width(session_cv, confidence))
    return Estimate(
        ratio=math.exp(mean),
        low=math.exp(mean - half),
        high=math.exp(mean + half),
        noise_cv=spread / math.sqrt(2),
        candidate=math.exp(float(ours.mean())),
        baseline=math.exp(float(theirs.mean())),
        candidate_repeats=blocks,
        baseline_repeats=blocks,
        paired=True,
    )
