"""Group-sequential verdict over pass/fail items: stop as soon as it is decided, with the error rates held.

Items come in a fixed order; the data are looked at after given numbers of them (``Plan.looks``), the last
being the budget. With x = +1 (won), -1 (lost) or 0 an item, against a stored baseline on the same items:

- **fail** when "no loss" is rejected by the exact McNemar test and the observed loss is beyond the margin.
- **pass** when "a loss of the margin or more" is rejected (non-inferiority of the paired difference) and the
  observed accuracy is not under the floor.
- **fail** as well when "accuracy at least the floor" is rejected by the exact binomial test (one sample).

What is controlled, for any number of looks taken and whatever stops first:

- a candidate that is not worse (and not under the floor) fails in at most ``fail_alpha`` of runs. Exact: given
  how many items differ at each look, losses are a walk with fair coins, whatever the flip rate; the floor's
  test is a binomial walk. With a floor the two share ``fail_alpha`` in halves (Bonferroni).
- a candidate whose true loss is the margin or more passes in at most ``pass_alpha``. The walk of net losses
  depends on a flip rate that is not known; its most likely value under the hypothesis (Tango's) is put in at
  every look, so this one is held nearly, not exactly: tests/stats/test_sequential.py simulates it.

Neither boundary relies on the other being obeyed (both are non-binding), so a run may go on past a verdict.

Alpha spending (Lan and DeMets, Biometrika 70, 1983): by the fraction t of the budget that has been asked, no
more than spend(t) of alpha is used up; any rising spend with spend(0) = 0 and spend(1) = alpha is valid. The
O'Brien-Fleming type alone spends 1e-30 on the first 60 of 1,319 items and could never see a broken build there;
so ``early`` of the alpha is spent in Pocock's type and the rest in O'Brien and Fleming's. What discreteness
leaves unspent at a look stays for the later ones. Walks are done exactly, by convolution over the looks
(Armitage, McPherson and Rowe, JRSS A 132, 1969), never by a normal approximation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ds4bench.stats.paired import as_passes, constrained_lost

BUDGET = 1319
Decision = Literal["continue", "pass", "fail", "undecided"]
_FIRST_LOOKS = (20, 40, 60, 80, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 900, 1000, 1100, 1200)


def default_looks(budget: int = BUDGET) -> tuple[int, ...]:
    """When to look: every 20 items at first, where a broken build shows, then ever more rarely, and at the end."""
    return (*(n for n in _FIRST_LOOKS if n < 0.97 * budget), budget)


@dataclass(frozen=True)
class Plan:
    """All that must be fixed before the first item: looks (rising numbers of items), margin, floor, levels.

    ``margin`` and ``floor`` are shares of the items; ``floor`` None means no absolute test. ``early_fail`` and
    ``early_pass`` are the shares of alpha that are spent in Pocock's manner. Raises ValueError.
    """

    looks: tuple[int, ...] = default_looks()
    margin: float = 0.015
    floor: float | None = 0.92
    fail_alpha: float = 0.01
    pass_alpha: float = 0.05
    early_fail: float = 0.3
    early_pass: float = 0.2

    def __post_init__(self) -> None:
        if not self.looks or list(self.looks) != sorted(set(self.looks)) or self.looks[0] < 1:
            raise ValueError("looks must be rising numbers of items, from 1")
        if not 0 < self.margin < 1 or (self.floor is not None and not 0 < self.floor < 1):
            raise ValueError("margin and floor are shares between 0 and 1")
        if not (0 < self.fail_alpha < 0.5 and 0 < self.pass_alpha < 0.5):
            raise ValueError("fail_alpha and pass_alpha must lie between 0 and 0.5")
        if not (0 <= self.early_fail <= 1 and 0 <= self.early_pass <= 1):
            raise ValueError("early_fail and early_pass are shares between 0 and 1")

    @property
    def budget(self) -> int:
        """Most items that may be asked."""
        return self.looks[-1]


@dataclass(frozen=True)
class Look:
    """The state after one look, with the bounds that were in force there (None: not reachable at this look).

    ``lost_to_fail``: at least so many of the ``lost + won`` differing items had to be lost; ``net_lost_to_pass``:
    at most so many net losses; ``right_to_fail``: at most so many right answers (the floor's test).
    """

    items: int
    right: int
    lost: int
    won: int
    decision: Decision
    reason: str
    lost_to_fail: int | None
    net_lost_to_pass: int | None
    right_to_fail: int | None

    @property
    def under_floor(self) -> bool:
        """Whether the floor's test alone fails here, whatever the comparison says."""
        return self.right_to_fail is not None and self.right <= self.right_to_fail

    def lost_more_than(self, margin: float) -> bool:
        """Whether the comparison alone fails here: items were lost, and more than the margin (a share of the items)."""
        shown = self.lost_to_fail is not None and self.lost >= self.lost_to_fail
        return shown and self.lost - self.won > margin * self.items


@dataclass(frozen=True)
class FloorLook:
    """The state of the absolute test after one look: bounds on the number of right answers (None: no bound)."""

    items: int
    right: int
    decision: Decision
    right_to_fail: int | None
    right_to_pass: int | None


def spend(fraction: float, alpha: float, early: float) -> float:
    """Alpha used up when ``fraction`` of the budget has been asked: a mixture of the two types (one-sided).

    O'Brien-Fleming type 2 (1 - Phi(z(alpha/2) / sqrt t)); Pocock type alpha ln(1 + (e - 1) t).
    """
    from scipy.special import ndtr, ndtri

    if fraction <= 0:
        return 0.0
    fraction = min(fraction, 1.0)
    fleming = 2 * float(ndtr(ndtri(alpha / 2) / math.sqrt(fraction)))
    pocock = alpha * math.log1p((math.e - 1) * fraction)
    return early * pocock + (1 - early) * fleming


def examine(candidate: ArrayLike, baseline: ArrayLike, plan: Plan) -> list[Look]:
    """All looks that the items so far allow, up to the first decision; the last of them is the state now.

    ``candidate`` and ``baseline`` are pass/fail arrays [items so far] in the plan's order; what lies behind the
    last complete look is not looked at. Pure: a resumed run gives what an uninterrupted one gives. Empty before
    the first look. Raises ValueError when the arrays do not pair up or hold more items than the budget.
    """
    ours, theirs = as_passes(candidate), as_passes(baseline)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.size} and {theirs.size} items do not pair up")
    if ours.size > plan.budget:
        raise ValueError(f"{ours.size} items are more than the budget of {plan.budget}")
    ends = [n for n in plan.looks if n <= ours.size]
    lost = [int((~ours[:n] & theirs[:n]).sum()) for n in ends]
    won = [int((ours[:n] & ~theirs[:n]).sum()) for n in ends]
    right = [int(ours[:n].sum()) for n in ends]
    return _walk(plan, ends, lost, won, right)


def _walk(plan: Plan, ends: list[int], lost: list[int], won: list[int], right: list[int]) -> list[Look]:
    looks: list[Look] = []
    losing = _Walk(0.5)
    passing: list[int | None] = []
    share = 1.0 if plan.floor is None else 0.5
    floors = [None] * len(plan.looks) if plan.floor is None else _under_floor(plan, share)
    for k, items in enumerate(ends):
        budget = spend(items / plan.budget, share * plan.fail_alpha, plan.early_fail)
        lost_to_fail = losing.bound(lost[k] + won[k], budget)
        passing.append(_pass_bound(plan, ends[: k + 1], passing, won[k], lost[k]))
        at = Look(items, right[k], lost[k], won[k], "continue", "", lost_to_fail, passing[k], floors[k])
        decision, reason = _decide(plan, at)
        looks.append(Look(items, right[k], lost[k], won[k], decision, reason, lost_to_fail, passing[k], floors[k]))
        if decision != "continue":
            break
    return looks


def _decide(plan: Plan, at: Look) -> tuple[Decision, str]:
    if at.under_floor:
        return "fail", f"accuracy is under the floor of {100 * (plan.floor or 0):g} %"
    if at.lost_more_than(plan.margin):
        return "fail", "items were lost, and more than the margin"
    net = at.lost - at.won
    above_floor = plan.floor is None or at.right >= plan.floor * at.items
    if at.net_lost_to_pass is not None and net <= at.net_lost_to_pass and above_floor:
        return "pass", "a loss beyond the margin is excluded"
    return ("undecided", "the budget is used up") if at.items == plan.budget else ("continue", "")


def examine_floor(candidate: ArrayLike, plan: Plan) -> list[FloorLook]:
    """The absolute test alone (no baseline): all looks at pass/fail answers [items so far] up to a decision.

    **fail**: accuracy shown to be under the floor, at most ``fail_alpha`` for a build at or above it. **pass**:
    shown to be over the floor, at most ``pass_alpha`` for a build at or under it. Both exact (binomial walk).
    Raises ValueError without a floor and for more items than the budget.
    """
    ours = as_passes(candidate)
    if plan.floor is None:
        raise ValueError("the plan has no floor")
    if ours.size > plan.budget:
        raise ValueError(f"{ours.size} items are more than the budget of {plan.budget}")
    looks: list[FloorLook] = []
    for items, low, high in zip(plan.looks, _under_floor(plan, 1.0), _over_floor(plan), strict=True):
        if items > ours.size:
            break
        right = int(ours[:items].sum())
        decision: Decision = "undecided" if items == plan.budget else "continue"
        if low is not None and right <= low:
            decision = "fail"
        elif high is not None and right >= high:
            decision = "pass"
        looks.append(FloorLook(items, right, decision, low, high))
        if decision != "continue":
            break
    return looks


def _under_floor(plan: Plan, share: float) -> list[int | None]:
    """Most right answers at each look that show an accuracy under the floor."""
    wrong = _upper_bounds(plan, 1 - (plan.floor or 0), share * plan.fail_alpha, plan.early_fail)
    return [None if bound is None else items - bound for items, bound in zip(plan.looks, wrong, strict=True)]


def _over_floor(plan: Plan) -> list[int | None]:
    """Fewest right answers at each look that show an accuracy over the floor."""
    return list(_upper_bounds(plan, plan.floor or 0, plan.pass_alpha, plan.early_pass))


@lru_cache(maxsize=64)
def _upper_bounds(plan: Plan, p: float, alpha: float, early: float) -> tuple[int | None, ...]:
    """Fewest successes at each look that are beyond chance when each item succeeds with probability ``p``."""
    walk = _Walk(p)
    return tuple(walk.bound(items, spend(items / plan.budget, alpha, early)) for items in plan.looks)


class _Walk:
    """Successes of coins with probability ``p``, with the mass that earlier bounds have taken removed.

    "No loss" is p = 1/2: of the items that differ, each is lost or won by a fair coin.
    """

    def __init__(self, p: float) -> None:
        self._p = p
        self._alive: NDArray[np.float64] = np.ones(1)  # index: successes so far
        self._spent = 0.0

    def bound(self, trials: int, budget: float) -> int | None:
        """Fewest successes in ``trials`` so far that are beyond chance; the mass from there on is spent."""
        more = trials - (len(self._alive) - 1)
        self._alive = np.convolve(self._alive, _binomial(more, self._p))
        tails = np.cumsum(self._alive[::-1])[::-1]
        allowed = np.flatnonzero(self._spent + tails <= budget)
        allowed = allowed[allowed > 0]
        if not allowed.size or self._alive[allowed[0]] == 0:
            return None
        first = int(allowed[0])
        self._spent += float(tails[first])
        self._alive[first:] = 0.0
        return first


def _pass_bound(plan: Plan, ends: list[int], before: list[int | None], won: int, lost: int) -> int | None:
    """Largest net loss at which the last look may pass, given the bounds of the looks before it.

    The whole walk is done again with this look's flip rate; what earlier looks have spent under it counts.
    """
    p_lost = constrained_lost(won, lost, ends[-1], -plan.margin)
    p_won = max(p_lost - plan.margin, 0.0)
    alive, low, spent, start = np.ones(1), 0, 0.0, 0  # alive[i]: net loss of low + i
    for end, bound in zip(ends, [*before, None], strict=True):
        steps = end - start
        alive, low, start = np.convolve(alive, _net_losses(steps, p_lost, p_won)), low - steps, end
        alive, low = _trim(alive, low)
        if bound is not None and bound >= low:
            cut = bound - low + 1
            spent += float(alive[:cut].sum())
            alive[:cut] = 0.0
    tails = spent + np.cumsum(alive)
    allowed = np.flatnonzero(tails <= spend(ends[-1] / plan.budget, plan.pass_alpha, plan.early_pass))
    return low + int(allowed[-1]) if allowed.size and tails[allowed[-1]] > spent else None


def _trim(mass: NDArray[np.float64], low: int) -> tuple[NDArray[np.float64], int]:
    """Without the ends that hold nothing (under 1e-14, far below any alpha), so that a walk stays short."""
    kept = np.flatnonzero(mass > 1e-14)
    first, last = (int(kept[0]), int(kept[-1])) if kept.size else (0, 0)
    return mass[first : last + 1].copy(), low + first


@lru_cache(maxsize=4096)
def _net_losses(steps: int, p_lost: float, p_won: float) -> NDArray[np.float64]:
    """Distribution of lost minus won over ``steps`` items, [2 steps + 1] from -steps to steps."""
    size = 2 * steps + 1
    one = np.zeros(size)
    one[[0, 1, 2]] = p_won, 1 - p_won - p_lost, p_lost
    return np.clip(np.fft.irfft(np.fft.rfft(one) ** steps, size), 0.0, None)


@lru_cache(maxsize=4096)
def _binomial(trials: int, p: float) -> NDArray[np.float64]:
    """Probabilities of 0 .. trials successes."""
    from scipy.special import gammaln, xlog1py, xlogy

    k = np.arange(trials + 1)
    ways = gammaln(trials + 1) - gammaln(k + 1) - gammaln(trials - k + 1)
    return np.asarray(np.exp(ways + xlogy(k, p) + xlog1py(trials - k, -p)))
