"""What a rule can see: powers of the verdicts and the minimum detectable effect, known before a run starts.

For a ratio rule (``decision.py``) the noise of the baseline or of a calibration stands for the truth, and the
power is averaged over what the run itself will estimate of it (chi-square with the run's degrees of freedom), so
that three repeats pay for knowing their noise badly. **The minimum detectable effect** is the smallest true
change that shows as a change at one-sided 5 % in 80 of 100 runs; by symmetry it is also the smallest margin at
which an unchanged build PASSes in 80 of 100, so a rule with a smaller margin asks for what it cannot see (J.
Cohen, "Statistical Power Analysis", 1988; Julious, Statistics in Medicine 23, 2004, for non-inferiority).

For pass/fail items the power of McNemar's exact test and of Tango's non-inferiority test are sums over all
outcomes, without a normal approximation. Effects and margins are shares: 0.05 is 5 % (ratio) or 5 points (items).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ds4bench.stats.decision import FAIL_LEVEL, PASS_LEVEL, Spread
from ds4bench.stats.paired import PairedCounts, mcnemar_loss, non_inferiority
from ds4bench.stats.ratio import MOST_REPEATS

POWER = 0.80
_LARGEST = math.log(10.0)


def show_power(slowdown: float, spread: Spread, level: float = PASS_LEVEL) -> float:
    """Chance that a true ``slowdown`` is significant at one-sided ``level``."""
    return _exceeds(spread, math.log1p(slowdown), level, 0.0)


def fail_power(slowdown: float, margin: float, spread: Spread, level: float = FAIL_LEVEL) -> float:
    """Chance that a true ``slowdown`` FAILs (``verdict_of_ratio``); at 0 it is the false alarm rate."""
    return _exceeds(spread, math.log1p(slowdown), level, math.log1p(margin))


def pass_power(slowdown: float, margin: float, spread: Spread, level: float = PASS_LEVEL) -> float:
    """Chance that a build with a true ``slowdown`` PASSes; at 0 the chance of an unchanged one."""
    return _exceeds(spread, math.log1p(margin) - math.log1p(slowdown), level, 0.0)


def minimum_detectable_effect(spread: Spread, *, level: float = PASS_LEVEL, power: float = POWER) -> float:
    """The smallest true change that the rule can see (see above), 0.038 for 3.8 %; infinite if over tenfold."""
    return _smallest(lambda effect: show_power(effect, spread, level), power)


def smallest_failed(margin: float, spread: Spread, *, level: float = FAIL_LEVEL, power: float = POWER) -> float:
    """The smallest true slowdown that FAILs with ``power``; never under the margin. Infinite if over tenfold."""
    return _smallest(lambda slowdown: fail_power(slowdown, margin, spread, level), power)


def largest_noise(margin: float, spread: Spread, *, level: float = PASS_LEVEL, power: float = POWER) -> float | None:
    """The largest noise CV of repeats at which an unchanged build still PASSes with ``power``; None if none is.

    ``spread`` gives repeats and session noise; its own noise is not used.
    """
    from scipy.optimize import brentq

    def spare(noise_cv: float) -> float:
        return pass_power(0.0, margin, replace(spread, noise_cv=noise_cv), level) - power

    return float(brentq(spare, 0.0, 10.0, xtol=1e-6)) if spare(0.0) >= 0 > spare(10.0) else None


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


def mcnemar_power(items: int, loss: float, flips: float, level: float = PASS_LEVEL) -> float:
    """Chance that the exact one-sided McNemar test shows a true ``loss`` over ``items`` questions.

    ``flips`` is the share of items that change by chance, half each way; the loss comes on top.
    """
    chance = _outcomes(items, flips / 2 + loss, flips / 2)
    return math.fsum(p for (lost, won), p in chance.items() if lost > won and mcnemar_loss(lost, won) <= level)


def non_inferiority_power(
    items: int, margin: float, flips: float, *, loss: float = 0.0, level: float = PASS_LEVEL
) -> float:
    """Chance that a loss of ``margin`` is excluded (Tango) when the true loss is ``loss``."""
    chance = _outcomes(items, flips / 2 + loss, flips / 2)
    return math.fsum(
        p
        for (lost, won), p in chance.items()
        if lost - won < margin * items
        and non_inferiority(PairedCounts(items - lost - won, lost, won, 0), margin) <= level
    )


def paired_detectable_loss(items: int, flips: float, *, level: float = PASS_LEVEL, power: float = POWER) -> float:
    """The smallest true loss (share of items) that McNemar's test shows with ``power``; 1.0 if none is."""
    from scipy.optimize import brentq

    def spare(loss: float) -> float:
        return mcnemar_power(items, loss, flips, level) - power

    most = 0.999 - flips
    return float(brentq(spare, 0.0, most, xtol=1e-4)) if spare(most) > 0 else 1.0


def largest_flips(items: int, margin: float, *, level: float = PASS_LEVEL, power: float = POWER) -> float | None:
    """The largest chance flip rate at which an unchanged build passes the margin with ``power``; None if none."""
    from scipy.optimize import brentq

    def spare(flips: float) -> float:
        return non_inferiority_power(items, margin, flips, level=level) - power

    return float(brentq(spare, 0.0, 0.5, xtol=1e-4)) if spare(0.0) >= 0 > spare(0.5) else None


def _exceeds(spread: Spread, truth: float, level: float, least: float) -> float:
    """Chance that an estimate around ``truth`` is beyond both ``least`` and what is significant at ``level``."""
    from scipy.special import ndtr, ndtri, stdtrit

    if spread.df < 1:
        return 0.0
    t, z = -float(stdtrit(spread.df, level)), -float(ndtri(level))
    bars = np.maximum(np.hypot(t * spread.repeat_error * _noise_factors(spread.df), z * spread.session_error), least)
    if spread.error == 0:
        return float(np.mean(truth > bars))
    return float(np.mean(ndtr((truth - bars) / spread.error)))


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


def _outcomes(items: int, p_lost: float, p_won: float) -> dict[tuple[int, int], float]:
    """Chances of (lost, won), all that are over 1e-12 on either side."""
    from scipy.special import bdtr, bdtrc

    if p_lost < 0 or p_won < 0 or p_lost + p_won > 1:
        raise ValueError("flips and loss must be shares of the items that add up to 1 at most")

    def likely(trials: int, p: float) -> dict[int, float]:
        counts = np.arange(trials + 1)
        tail = np.minimum(bdtr(counts, trials, p), np.where(counts > 0, bdtrc(counts - 1, trials, p), 1.0))
        kept = counts[tail > 1e-12] if 0 < p < 1 else counts[[0 if p == 0 else -1]]
        mass = np.diff(np.concatenate([[0.0], bdtr(counts, trials, p)])) if 0 < p < 1 else np.ones(trials + 1)
        return {int(k): float(mass[k]) for k in kept}

    share = p_won / (1 - p_lost) if p_lost < 1 else 0.0
    return {
        (lost, won): p * q
        for lost, p in likely(items, p_lost).items()
        for won, q in likely(items - lost, share).items()
    }


def _repeats(count: int) -> str:
    return f"{count} repeat{'s' if count != 1 else ''}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if math.isfinite(share) else "tenfold"
