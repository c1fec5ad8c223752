"""What a rule can see: its power and the minimum detectable effect, known before a run starts.

For a ratio rule (``decision.py``) the noise of the baseline or of a calibration stands for the truth, and the
power is averaged over what the run itself will estimate of it (chi-square with the run's degrees of freedom), so
that three repeats pay for knowing their noise badly. **The minimum detectable effect** is the smallest true
change that shows as a change at one-sided 5 % in 80 of 100 runs; by symmetry it is also the smallest margin at
which an unchanged build PASSes in 80 of 100, so a rule with a smaller margin asks for what it cannot see (J.
Cohen, "Statistical Power Analysis", 1988; Julious, Statistics in Medicine 23, 2004, for non-inferiority).

Effects and margins are shares: 0.05 is 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ds4bench.stats.decision import MOST_REPEATS, PASS_LEVEL, Spread

POWER = 0.80
_LARGEST = math.log(10.0)


def show_power(slowdown: float, spread: Spread, level: float = PASS_LEVEL) -> float:
    """Chance that a true ``slowdown`` is significant at one-sided ``level``.

    By symmetry also the chance that an unchanged build PASSes where it is the margin.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    if spread.df < 1:
        return 0.0
    truth, t, z = math.log1p(slowdown), -float(stdtrit(spread.df, level)), -float(ndtri(level))
    bars = np.hypot(t * spread.repeat_error * _noise_factors(spread.df), z * spread.session_error)
    if spread.error == 0:
        return float(np.mean(truth > bars))
    return float(np.mean(ndtr((truth - bars) / spread.error)))


def minimum_detectable_effect(spread: Spread, *, level: float = PASS_LEVEL, power: float = POWER) -> float:
    """The smallest true change that the rule can see (see above), 0.038 for 3.8 %; infinite if over tenfold."""
    return _smallest(lambda effect: show_power(effect, spread, level), power)


def repeats_for(effect: float, spread: Spread, *, new_baseline: bool = False, power: float = POWER) -> int | None:
    """Fewest candidate repeats whose minimum detectable effect is at most ``effect``; None if 100 are too few.

    The baseline keeps its repeats, or is measured again with as many (``new_baseline``).
    """

    def enough(count: int) -> bool:
        return show_power(effect, with_repeats(spread, count, new_baseline=new_baseline)) >= power

    if effect <= 0 or not enough(MOST_REPEATS):
        return None
    low, high = 0, MOST_REPEATS  # more repeats never see less
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def with_repeats(spread: Spread, count: int, *, new_baseline: bool = False) -> Spread:
    """The same noise with ``count`` candidate repeats."""
    theirs = max(count, spread.baseline_repeats) if new_baseline else spread.baseline_repeats
    return replace(spread, candidate_repeats=count, baseline_repeats=theirs)


def sentence(spread: Spread, noise: str = "the baseline's noise") -> str:
    """What the gate can see now and with about twice the repeats, for a person."""
    now, count = minimum_detectable_effect(spread), 2 * spread.candidate_repeats + 1
    then = minimum_detectable_effect(with_repeats(spread, count))
    seen = (
        f"with {_repeats(spread.candidate_repeats)} and {noise} this gate can see a change of {_percent(now)} or more"
    )
    return f"{seen}; `--repeats {count}` would see {_percent(then)}" if then < 0.95 * now else seen


def refusal(margin: float, spread: Spread, noise: str = "the baseline's noise") -> str | None:
    """Why a margin cannot be judged with this noise, and what would help; None when it can."""
    least = minimum_detectable_effect(spread)
    if least <= margin:
        return None
    why = (
        f"margin {100 * margin:g} % is under what can be seen: with {_repeats(spread.candidate_repeats)} and {noise} "
        f"this gate can see a change of {_percent(least)} or more"
    )
    if needed := repeats_for(margin, spread):
        return f"{why}; use `--repeats {needed}` or a wider margin"
    if both := repeats_for(margin, spread, new_baseline=True):
        return f"{why}; {both} repeats here and in a new baseline would see it, or use a wider margin"
    return f"{why}; no number of repeats would see it, because sessions differ too much: use a wider margin"


@lru_cache(maxsize=256)
def _noise_factors(df: int) -> NDArray[np.float64]:
    """Estimated over true noise: square roots of chi-square / df at 400 equally likely points."""
    from scipy.special import chdtri

    return np.asarray(np.sqrt(chdtri(df, (np.arange(400) + 0.5) / 400) / df))


def _smallest(power_of: Callable[[float], float], power: float) -> float:
    from scipy.optimize import brentq

    def spare(log_effect: float) -> float:
        return power_of(math.expm1(log_effect)) - power

    if spare(_LARGEST) < 0:
        return math.inf
    return math.expm1(float(brentq(spare, 0.0, _LARGEST, xtol=1e-7))) if spare(0.0) < 0 else 0.0


def _repeats(count: int) -> str:
    return f"{count} repeat{'s' if count != 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "tenfold"
