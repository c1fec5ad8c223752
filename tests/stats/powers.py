"""What the rule of ``stats/decision.py`` promises, as chances by quadrature: an oracle for simulated verdicts."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from ds4bench.stats.decision import FAIL_LEVEL, PASS_LEVEL, Spread


def fail_power(slowdown: float, margin: float, spread: Spread) -> float:
    """Chance that a true ``slowdown`` FAILs; at 0 it is the false alarm rate."""
    return _exceeds(spread, math.log1p(slowdown), FAIL_LEVEL, math.log1p(margin))


def pass_power(slowdown: float, margin: float, spread: Spread) -> float:
    """Chance that a build with a true ``slowdown`` PASSes; at 0 the chance of an unchanged one."""
    return _exceeds(spread, math.log1p(margin) - math.log1p(slowdown), PASS_LEVEL, 0.0)


def _exceeds(spread: Spread, truth: float, level: float, least: float) -> float:
    """Chance that an estimate around ``truth`` is beyond ``least`` and significant, over what a run may see of its noise."""
    seen = np.sqrt(stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, spread.df) / spread.df)
    repeats = stats.t.isf(level, spread.df) * spread.repeat_error * seen
    bars = np.maximum(np.hypot(repeats, stats.norm.isf(level) * spread.session_error), least)
    return float(np.mean(stats.norm.sf(bars, truth, spread.error)))
