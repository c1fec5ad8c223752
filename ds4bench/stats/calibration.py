"""How much one build differs from itself: inside a session and between sessions, from A/A runs.

A session is one start of the serve; its repeats see only the noise inside. k runs of the same build with restarts
between them show the rest. Variance components of a one-way random-effects layout by the method of moments
(Searle, Casella and McCulloch, "Variance Components", 1992, 3.6), with unweighted session means when sessions have
different numbers of repeats (Thomas and Hultquist, Annals of Statistics 6, 1978); the upper limit of the session
part by the modified large-sample method (Burdick and Graybill, "Confidence Intervals on Variance Components",
1992, 3.3). All on logarithms, where a standard deviation is about a coefficient of variation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEAST_SESSIONS = 3
CONFIDENCE = 0.80
"""One-sided, of the upper limit that a rule takes as its session_cv. With 5 sessions a 95 % limit would be 2.4
times the estimate and most margins would be refused; at 80 % it is about 1.5 times, near Student's widening.
Simulated with 5 sessions of 3 repeats, noise 2 %, true session CV 0 to 2 %: a build that is worse by just the
margin then passes in 1 to 3 of 100, so the 5 % is held."""


@dataclass(frozen=True)
class Calibration:
    """Noise of one metric on one target. ``session_cv`` may be 0 when restarts add nothing that can be seen.

    ``session_cv_upper`` is what a rule should use: the session noise is at most that, with ``confidence``.
    """

    sessions: int
    repeats: float  # harmonic mean a session
    repeat_cv: float
    session_cv: float
    session_cv_upper: float
    confidence: float

    @property
    def sentence(self) -> str:
        """The measured noise in words."""
        return (
            f"over {self.sessions} sessions of one build: noise between repeats {100 * self.repeat_cv:.1f} %, between "
            f"sessions {100 * self.session_cv:.1f} % (at most {100 * self.session_cv_upper:.1f} % with "
            f"{100 * self.confidence:.0f} % confidence)"
        )


def calibrate(runs: Sequence[ArrayLike], confidence: float = CONFIDENCE) -> Calibration:
    """Noise from A/A runs, one entry a session: an array [repeats] or [repeats, strata] of positive values.

    A repeat's value is the geometric mean over its strata. Raises ValueError for fewer than 3 sessions, for a
    session with fewer than 2 repeats, and for values that are not positive and finite.
    """
    if len(runs) < LEAST_SESSIONS:
        raise ValueError(f"{len(runs)} sessions show no noise between them, at least {LEAST_SESSIONS} are needed")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must lie between 0.5 and 1, not {confidence}")
    sessions = [_levels(run) for run in runs]
    sizes = np.array([session.size for session in sessions])
    if sizes.min() < 2:
        raise ValueError("every session needs at least 2 repeats")
    inside_df, between_df = int(sizes.sum()) - len(sessions), len(sessions) - 1
    inside = sum(float(((session - session.mean()) ** 2).sum()) for session in sessions) / inside_df
    repeats = float(len(sessions) / (1 / sizes).sum())
    between = repeats * float(np.var([session.mean() for session in sessions], ddof=1))
    return Calibration(
        sessions=len(sessions),
        repeats=repeats,
        repeat_cv=math.sqrt(inside),
        session_cv=math.sqrt(max(between - inside, 0.0) / repeats),
        session_cv_upper=math.sqrt(upper_component(between, between_df, inside, inside_df, confidence) / repeats),
        confidence=confidence,
    )


def upper_component(between: float, between_df: int, inside: float, inside_df: int, confidence: float) -> float:
    """Upper limit of E(between) - E(inside) for two mean squares, at least 0 (Burdick and Graybill 1992, 3.3.2)."""
    from scipy.special import chdtri, fdtri

    tail = 1 - confidence
    h = between_df / float(chdtri(between_df, confidence)) - 1  # upper-tail quantile: small chi-square
    g = 1 - inside_df / float(chdtri(inside_df, tail))
    f = float(fdtri(between_df, inside_df, tail))
    cross = ((1 - f) ** 2 - (h * f) ** 2 - g * g) / f
    reach = (h * between) ** 2 + (g * inside) ** 2 + cross * between * inside
    return max(between - inside + math.sqrt(max(reach, 0.0)), 0.0)


def _levels(run: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(run, dtype=np.float64)
    if values.ndim not in (1, 2) or values.size == 0:
        raise ValueError("a session must be an array [repeats] or [repeats, strata] that is not empty")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ValueError("a session has values that are not positive and finite")
    logs = np.log(values)
    return np.asarray(logs if logs.ndim == 1 else logs.mean(axis=1))
