"""Ratio of repeated runs by a two-level bootstrap: repeats, and requests within repeats, on logarithms.

When which: ``ratio.py`` sees one number a repeat and needs equal strata in all repeats; it is the one for a
fixed matrix (long context: cell x queue rank). This one reads the requests too. Use it when repeats hold
different numbers of requests (a steady window, random lengths, open load), or so few requests that their own
scatter is a large part of a repeat's: three repeats that agree by luck then do not make a narrow interval,
because the scatter of requests says how much a repeat's mean must move.

Method (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, 3.8; Ren et al., "Nonparametric
Bootstrapping for Hierarchical Data", J. Applied Statistics 37(9), 2010). Drawing repeats and then requests
with plain replacement counts the requests' scatter twice, since observed repeat means contain it. So the
repeats' effects are first shrunk to the variance that is their own (method of moments, at least 0) and then
drawn together with request residuals; both pooled over the two sides. Three repeats widen the level from the
normal's to Student's t (Hesterberg 2015), the half width is at least Student's own, and the session enters in
quadrature: all as in ``ratio.py``, so that the two agree where both apply.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ds4bench.core import Estimate
from ds4bench.stats.ratio import CONFIDENCE, LEAST_REPEATS, session_half_width

RESAMPLES = 5_000
Logs = list[NDArray[np.float64]]
"""One array [requests] of logarithms a repeat."""


@dataclass(frozen=True)
class Components:
    """Where the scatter of logarithms comes from (standard deviations, about relative).

    ``repeat_sd`` is the repeats' own, ``request_sd`` that of requests inside a repeat, ``mean_sd`` that of a
    repeat's mean, which holds both. ``effects`` [repeats] and ``residuals`` [requests] have just these spreads.
    """

    repeat_sd: float
    request_sd: float
    mean_sd: float
    effects: NDArray[np.float64]
    residuals: NDArray[np.float64]


def components(sides: Sequence[Logs]) -> Components:
    """Split the scatter of one or more sides, each centred on its own mean; needs more repeats than sides."""
    repeats = [repeat for side in sides for repeat in side]
    requests = sum(repeat.size for repeat in repeats)
    free, inside = len(repeats) - len(sides), requests - len(repeats)
    means = [np.array([repeat.mean() for repeat in side]) for side in sides]
    effects = np.concatenate([side - side.mean() for side in means])
    residuals = np.concatenate([repeat - repeat.mean() for repeat in repeats])
    request_var = float((residuals**2).sum()) / inside if inside else 0.0
    carried = request_var * float(np.mean([1 / repeat.size for repeat in repeats]))
    seen = float((effects**2).sum()) / free
    own = max(seen - carried, 0.0)
    return Components(
        repeat_sd=math.sqrt(own),
        request_sd=math.sqrt(request_var),
        mean_sd=math.sqrt(max(seen, carried)),
        effects=with_spread(effects, math.sqrt(own)),
        residuals=with_spread(residuals, math.sqrt(request_var)),
    )


def two_level_ratio(
    candidate: Sequence[ArrayLike],
    baseline: Sequence[ArrayLike],
    *,
    session_cv: float,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Ratio candidate / baseline of repeats, each an array [requests] of positive values; lengths may differ.

    A repeat's value is the geometric mean over its requests, and repeats weigh the same. ``noise_cv`` is the
    spread of repeat means, at least what the requests' scatter implies. Raises ValueError for empty repeats, for
    values that are not positive and finite, and for fewer than ``LEAST_REPEATS`` repeats in all.
    """
    from scipy.special import ndtr, stdtrit

    sides = [logs(candidate, "candidate"), logs(baseline, "baseline")]
    total = len(sides[0]) + len(sides[1])
    if total < LEAST_REPEATS:
        raise ValueError(f"{total} repeats in all show no noise, at least {LEAST_REPEATS} are needed")
    ours, theirs = (float(np.mean([repeat.mean() for repeat in side])) for side in sides)
    parts = components(sides)
    t = float(stdtrit(total - 2, 0.5 + confidence / 2))
    rng = np.random.default_rng(seed)
    deviation = _side_errors(sides[0], parts, resamples, rng) - _side_errors(sides[1], parts, resamples, rng)
    bootstrap = float(np.quantile(np.abs(deviation), 1 - 2 * float(ndtr(-t))))
    student = t * parts.mean_sd * math.sqrt(1 / len(sides[0]) + 1 / len(sides[1]))
    half = math.hypot(max(bootstrap, student), session_half_width(session_cv, confidence))
    return Estimate(
        ratio=math.exp(ours - theirs),
        low=math.exp(ours - theirs - half),
        high=math.exp(ours - theirs + half),
        noise_cv=parts.mean_sd,
        candidate=math.exp(ours),
        baseline=math.exp(theirs),
        candidate_repeats=len(sides[0]),
        baseline_repeats=len(sides[1]),
    )


def logs(repeats: Sequence[ArrayLike], name: str) -> Logs:
    """Checked logarithms of one side. Raises ValueError naming the side."""
    arrays = [np.asarray(repeat, dtype=np.float64) for repeat in repeats]
    if not arrays or any(array.ndim != 1 or not array.size for array in arrays):
        raise ValueError(f"{name} must be repeats of at least one request each")
    if not all(np.isfinite(array).all() and (array > 0).all() for array in arrays):
        raise ValueError(f"{name} has values that are not positive and finite")
    return [np.log(array) for array in arrays]


def _side_errors(side: Logs, parts: Components, resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Bootstrapped error of one side's mean, [resamples]; repeat by repeat, so that memory stays small."""
    error = np.zeros(resamples)
    for repeat in side:
        error += parts.effects[rng.integers(parts.effects.size, size=resamples)]
        error += parts.residuals[rng.integers(parts.residuals.size, size=(resamples, repeat.size))].mean(axis=1)
    return error / len(side)


def with_spread(values: NDArray[np.float64], sd: float) -> NDArray[np.float64]:
    """The same shape with root mean square ``sd``: what a draw from it must have to be unbiased."""
    rms = math.sqrt(float((values**2).mean()))
    return values * (sd / rms) if rms > 0 else values
