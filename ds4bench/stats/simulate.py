"""Simulated promotions, from the timings and answers of a real run: how often each verdict falls.

A promotion is drawn from stored requests [repeats, strata] (cell x queue rank, as ``ratio.py`` takes them): every
repeat gets an effect and every request a residual of its own stratum, drawn from those of the run (two-level
resampling; effects are shrunk so that the requests' scatter is not counted twice, and both are scaled to be
unbiased; Davison and Hinkley 1997, 3.8). Sessions, which one run cannot show, are normal with a stated CV. The
draws are vectorised; each promotion is then judged by the very functions that judge a real one.

Three stored repeats hold three repeat effects: the simulation has the size of the run's noise, not more about its
tails than the run has shown. Store many repeats for ``make trust``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ds4bench.core import Estimate, Verdict
from ds4bench.stats.decision import Direction, Levels, levels, verdict_of_ratio
from ds4bench.stats.ratio import ratio_estimate
from ds4bench.stats.sequential import Decision, Plan, examine
from ds4bench.stats.two_level import with_spread

PROMOTIONS = 1_000
_RESAMPLES = 1_000  # of the interval in one promotion: its quantile moves by 2 %, the verdict rates do not


@dataclass(frozen=True)
class RatioRule:
    """What judges a simulated promotion: ``session_cv`` is what the rule assumes, not what is true.

    ``extension`` is the number of candidate repeats that one INCONCLUSIVE look may add (0: no second look).
    """

    margin: float
    session_cv: float
    candidate_repeats: int = 5
    baseline_repeats: int = 5
    direction: Direction = "lower_is_better"
    extension: int = 0


@dataclass(frozen=True)
class VerdictRates:
    """Shares of the simulated promotions; ``mean_size`` is the mean number of repeats or items used."""

    promotions: int
    passed: float
    failed: float
    inconclusive: float
    mean_size: float
    median_size: float


@dataclass(frozen=True)
class Source:
    """What repeats are drawn from, in logarithms: level and residuals by stratum, effects by repeat."""

    level: NDArray[np.float64]  # [strata]
    effects: NDArray[np.float64]  # [repeats]
    residuals: NDArray[np.float64]  # [repeats, strata]

    @classmethod
    def of_run(cls, values: ArrayLike, noise_cv: float | None = None) -> Source:
        """Split a run [repeats, strata] of positive values; ``noise_cv`` rescales the noise of a repeat's mean.

        Raises ValueError for fewer than 2 repeats and for values that are not positive and finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2 or len(array) < 2 or not (np.isfinite(array).all() and (array > 0).all()):
            raise ValueError("a run must be an array [repeats, strata] of positive values with at least 2 repeats")
        logs = np.log(array)
        repeats, strata = logs.shape
        level, effects = logs.mean(axis=0), logs.mean(axis=1) - logs.mean()
        residuals = logs - level - effects[:, None]
        residuals *= math.sqrt(repeats * strata / ((repeats - 1) * max(strata - 1, 1)))
        carried = float((residuals**2).mean()) / strata
        seen = float((effects**2).sum()) / (repeats - 1)
        effects = with_spread(effects, math.sqrt(max(seen - carried, 0.0)))
        scale = 1.0
        if noise_cv is not None:
            now = math.sqrt(max(seen, carried))
            if now == 0:
                raise ValueError("a run without any noise cannot be rescaled")
            scale = noise_cv / now
        return cls(level, effects * scale, residuals * scale)

    def draw(self, promotions: int, repeats: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Logarithms of one side, [promotions, repeats, strata], without session effect."""
        strata = self.level.size
        effects = self.effects[rng.integers(self.effects.size, size=(promotions, repeats, 1))]
        rows = rng.integers(len(self.residuals), size=(promotions, repeats, strata))
        return np.asarray(self.level + effects + self.residuals[rows, np.arange(strata)])


def simulate_ratio(
    source: Source,
    rule: RatioRule,
    *,
    slowdown: float = 0.0,
    true_session_cv: float = 0.0,
    promotions: int = PROMOTIONS,
    seed: int = 0,
) -> VerdictRates:
    """Verdict rates of a candidate whose values are truly ``1 + slowdown`` times the run's (0: A/A).

    With higher_is_better rules a slowdown divides. Both sides are drawn anew in every promotion.
    """
    rng = np.random.default_rng(seed)
    shift = math.log1p(slowdown) * (1 if rule.direction == "lower_is_better" else -1)
    most = rule.candidate_repeats + rule.extension
    sessions = rng.normal(0.0, true_session_cv, size=(2, promotions, 1, 1))
    ours = np.exp(source.draw(promotions, most, rng) + shift + sessions[0])
    theirs = np.exp(source.draw(promotions, rule.baseline_repeats, rng) + sessions[1])
    outcomes = [_promote(one, other, rule, seed + k) for k, (one, other) in enumerate(zip(ours, theirs, strict=True))]
    return _rates([verdict.value for verdict, _ in outcomes], [size for _, size in outcomes])


def simulate_sequence(
    baseline: ArrayLike,
    plan: Plan,
    *,
    flips: float,
    loss: float = 0.0,
    promotions: int = PROMOTIONS,
    seed: int = 0,
) -> VerdictRates:
    """Rates of the sequential verdict over pass/fail items, against stored answers [plan.budget] in their order.

    ``flips`` is the share of items that change by chance, half each way, ``loss`` the true loss on top, both as
    shares of all items. Raises ValueError when the baseline cannot lose or win that many.
    """
    theirs = np.asarray(baseline, dtype=np.bool_)
    if theirs.shape != (plan.budget,):
        raise ValueError(f"{theirs.size} stored answers are not the budget of {plan.budget}")
    right = float(theirs.mean())
    if flips / 2 + loss > right or flips / 2 > 1 - right:
        raise ValueError("the baseline has too few right or wrong answers for these flips and this loss")
    change = np.where(theirs, (flips / 2 + loss) / max(right, 1e-12), flips / 2 / max(1 - right, 1e-12))
    rng, decisions, sizes = np.random.default_rng(seed), list[Decision](), list[int]()
    for _ in range(promotions):
        last = examine(theirs ^ (rng.random(plan.budget) < change), theirs, plan)[-1]
        decisions.append(last.decision)
        sizes.append(last.items)
    return _rates([decision.upper() for decision in decisions], sizes)


def _promote(ours: NDArray[np.float64], theirs: NDArray[np.float64], rule: RatioRule, seed: int) -> tuple[Verdict, int]:
    """One promotion: the first look, and the declared extension if that does not decide."""
    looks = [rule.candidate_repeats] + ([len(ours)] if rule.extension else [])
    level, verdict, repeats = levels(len(looks)), Verdict.INCONCLUSIVE, 0
    for repeats in looks:
        estimate = _estimate(ours[:repeats], theirs, rule, level, seed)
        verdict = verdict_of_ratio(
            estimate, rule.margin, session_cv=rule.session_cv, direction=rule.direction, fail_level=level.fail_level
        ).verdict
        if verdict is not Verdict.INCONCLUSIVE:
            break
    return verdict, repeats


def _estimate(
    ours: NDArray[np.float64], theirs: NDArray[np.float64], rule: RatioRule, level: Levels, seed: int
) -> Estimate:
    return ratio_estimate(
        ours, theirs, session_cv=rule.session_cv, confidence=level.confidence, resamples=_RESAMPLES, seed=seed
    )


def _rates(verdicts: Sequence[str], sizes: Sequence[int]) -> VerdictRates:
    count = Counter(verdicts)
    total = len(verdicts)
    return VerdictRates(
        promotions=total,
        passed=count["PASS"] / total,
        failed=count["FAIL"] / total,
        inconclusive=(total - count["PASS"] - count["FAIL"]) / total,
        mean_size=float(np.mean(sizes)),
        median_size=float(np.median(sizes)),
    )
