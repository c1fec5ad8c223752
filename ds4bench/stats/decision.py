"""From the interval of a ratio to PASS, FAIL or INCONCLUSIVE: the rule, and what is promised with it.

With r = "times worse" (candidate / baseline, or its inverse where higher is better) and a margin m:

- **PASS** when the bad end of the two-sided 90 % interval is at most 1 + m: a worsening beyond the margin is
  excluded at one-sided 5 % (non-inferiority; Schuirmann 1987). Promised: a build that is truly worse by m or
  more passes in at most 5 of 100 promotions.
- **FAIL** when *both* hold: the estimate itself is beyond 1 + m, and "no worse at all" is rejected at
  one-sided 1 % (criterion.rs joins a significance test and a noise threshold in the same way). Promised: an
  unchanged build fails in at most 1 of 100 promotions, *whatever* its noise, because the test alone holds
  that; the margin keeps small, real, tolerated changes from failing.
- else **INCONCLUSIVE**.

Why not "the good end of the 90 % interval is beyond the margin"? It asks for proof of more than the margin,
so with 1 % of session noise no number of repeats would FAIL a true 10 % at margin 5 % in 95 of 100; and when
the noise is far above the margin it fails an unchanged build in up to 5 of 100. Why not "good end beyond no
change" (one-sided 5 %)? Same reason: up to 5 of 100. What is *not* promised: a build that is truly a little
better than the margin may FAIL (at exactly the margin about every second one does). Simulated rates of all
three: ``tests/stats/test_decision.py``.

The test is Student's t on the repeats' logarithms and the normal on the session's, joined in quadrature as in
``ratio.py``. With one extension after INCONCLUSIVE, halve both levels (``levels``): two looks at half the level
each hold the whole (Bonferroni; no independence needed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ds4bench.core import Estimate, Verdict

PASS_LEVEL = 0.05
FAIL_LEVEL = 0.01
NOISE_RULE_RUNS = 5
"""Runs a side for which a comparison by run means asks for a margin of twice the noise (metrics.md)."""
MOST_REPEATS = 100
"""More repeats than this are no answer to "how many would decide"."""
Direction = Literal["lower_is_better", "higher_is_better"]


@dataclass(frozen=True)
class RatioDecision:
    """Verdict and its two one-sided p values; ``times_worse`` is 1.07 for 7 % worse.

    ``p_no_worse`` is small when a worsening is shown (what Holm over cells or gates takes), ``p_beyond_margin``
    small when a worsening by the margin or more is excluded.
    """

    verdict: Verdict
    times_worse: float
    p_no_worse: float
    p_beyond_margin: float


@dataclass(frozen=True)
class Levels:
    """One-sided levels of one look; ``confidence`` is that of the two-sided interval PASS is read from."""

    pass_level: float
    fail_level: float

    @property
    def confidence(self) -> float:
        """Two-sided confidence for ``ratio_estimate``."""
        return 1 - 2 * self.pass_level


def levels(looks: int = 1, *, pass_level: float = PASS_LEVEL, fail_level: float = FAIL_LEVEL) -> Levels:
    """The levels of each look when ``looks`` of them were declared before the run (1, or 2 with an extension)."""
    if looks < 1:
        raise ValueError(f"at least one look, not {looks}")
    return Levels(pass_level / looks, fail_level / looks)


def verdict_of_ratio(
    estimate: Estimate,
    margin: float,
    *,
    session_cv: float,
    direction: Direction = "lower_is_better",
    fail_level: float = FAIL_LEVEL,
) -> RatioDecision:
    """PASS, FAIL or INCONCLUSIVE of one ratio; ``margin`` is the tolerated worsening, 0.05 for 5 %.

    PASS is read from the interval of ``estimate`` (90 %, or ``levels(2).confidence`` with an extension), FAIL
    from the point and the test at ``fail_level``. ``session_cv`` must be the one that the interval was made
    with. Raises ValueError for a negative margin.
    """
    if margin < 0:
        raise ValueError(f"the margin is a tolerated worsening, at least 0, not {margin}")
    worse, bad_end = estimate.ratio, estimate.high
    if direction == "higher_is_better":
        worse, bad_end = 1 / estimate.ratio, 1 / estimate.low
    spread = Spread.of(estimate, session_cv)
    p_no_worse = spread.p_value(math.log(worse))
    verdict = Verdict.INCONCLUSIVE
    if worse > 1 + margin and p_no_worse <= fail_level:
        verdict = Verdict.FAIL
    elif bad_end <= 1 + margin:
        verdict = Verdict.PASS
    return RatioDecision(verdict, worse, p_no_worse, spread.p_value(math.log1p(margin) - math.log(worse)))


def under_twice_the_noise(margin: float, estimate: Estimate) -> bool:
    """Whether a comparison by run means is too noisy for its margin to be PASSed.

    The rule is made for five runs a side. More of them, each noisier because it is shorter, resolve as much as five of
    noise x sqrt(5 / runs) do, so that is what counts; fewer are held to the noise as it is.
    """
    runs = min(estimate.candidate_repeats, estimate.baseline_repeats)
    return margin < 2 * estimate.noise_cv * math.sqrt(NOISE_RULE_RUNS / max(runs, NOISE_RULE_RUNS))


def repeats_to_decide(
    estimate: Estimate,
    margin: float,
    *,
    session_cv: float,
    direction: Direction = "lower_is_better",
    new_baseline: bool = False,
) -> int | None:
    """How many candidate repeats would decide, if ratio and noise stay as estimated; None if no number up to 100.

    Beyond the margin they must show a worsening at ``FAIL_LEVEL``, inside it exclude one of the margin at
    ``PASS_LEVEL``. The baseline keeps its repeats, or is measured again with as many (``new_baseline``).
    """
    worse = math.log(estimate.ratio) * (1 if direction == "lower_is_better" else -1)
    inside = math.log1p(margin) - worse
    level, distance = (FAIL_LEVEL, worse) if inside < 0 else (PASS_LEVEL, inside)
    for count in range(estimate.candidate_repeats + 1, MOST_REPEATS + 1):
        theirs = max(count, estimate.baseline_repeats) if new_baseline else estimate.baseline_repeats
        if estimate.paired:
            theirs = count
        if Spread(estimate.noise_cv, count, theirs, session_cv, estimate.paired).half_width(level) < distance:
            return count
    return None


@dataclass(frozen=True)
class Spread:
    """What a log ratio's error is made of: repeats (``noise_cv``, known up to ``df``) and two sessions.

    ``paired``: the noise is that of differences of n pairs (``paired_ratio.py``), known up to n - 1.
    """

    noise_cv: float
    candidate_repeats: int
    baseline_repeats: int
    session_cv: float
    paired: bool = False

    @classmethod
    def of(cls, estimate: Estimate, session_cv: float) -> Spread:
        """The spread that an estimate was made with."""
        return cls(
            estimate.noise_cv, estimate.candidate_repeats, estimate.baseline_repeats, session_cv, estimate.paired
        )

    @property
    def df(self) -> int:
        """Degrees of freedom of the noise, pooled over both sides or of the pairs' differences."""
        if self.paired:
            return self.candidate_repeats - 1
        return self.candidate_repeats + self.baseline_repeats - 2

    @property
    def repeat_error(self) -> float:
        """Standard error of the log ratio from repeats alone."""
        return self.noise_cv * math.sqrt(1 / self.candidate_repeats + 1 / self.baseline_repeats)

    @property
    def session_error(self) -> float:
        """Standard error of the log ratio from sessions alone: one on each side."""
        return math.sqrt(2) * self.session_cv

    @property
    def error(self) -> float:
        """Standard error of the log ratio, were both spreads known."""
        return math.hypot(self.repeat_error, self.session_error)

    def half_width(self, level: float) -> float:
        """Distance in log units that is significant at one-sided ``level``; infinite without degrees of freedom."""
        from scipy.special import ndtri, stdtrit

        if self.df < 1:
            return math.inf
        t, z = -float(stdtrit(self.df, level)), -float(ndtri(level))
        return math.hypot(t * self.repeat_error, z * self.session_error)

    def p_value(self, distance: float) -> float:
        """One-sided p of a log distance: the level at which ``half_width`` equals it."""
        from scipy.optimize import brentq

        if distance < 0:
            return 1 - self.p_value(-distance)
        if self.error == 0:
            return 0.5 if distance == 0 else 0.0
        least = 1e-15
        if self.half_width(least) <= distance:
            return 0.0
        return float(brentq(lambda level: self.half_width(level) - distance, least, 0.5, xtol=1e-14))
