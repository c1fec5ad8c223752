"""How a simulated baseline and its candidate differ because they are of two sessions of one build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ds4bench.stats.machine_speed import speed


@dataclass(frozen=True)
class Draw:
    """Of each promotion: log levels of the candidate's and the baseline's session, and whether the machine was as fast."""

    ours: NDArray[np.float64]
    theirs: NDArray[np.float64]
    steady: NDArray[np.bool_]


class Sessions(Protocol):
    """A source of session pairs."""

    def draw(self, promotions: int, rng: np.random.Generator) -> Draw:
        """``promotions`` pairs."""
        ...


@dataclass(frozen=True)
class NormalSessions:
    """Sessions that differ by ``cv``, a standard deviation in logarithms, on a machine that no probe complains of."""

    cv: float

    def draw(self, promotions: int, rng: np.random.Generator) -> Draw:
        """Independent normal levels."""
        ours, theirs = rng.normal(0.0, self.cv, size=(2, promotions))
        return Draw(ours, theirs, np.ones(promotions, dtype=np.bool_))


@dataclass(frozen=True)
class SeenSessions:
    """Pairs of different real sessions: their levels as measured, and the fixed CPU probe before each of their batches.

    A level holds what the session's own repeats add to it by chance, which is then in a promotion twice: the rates err
    towards too many wrong verdicts. ``drift`` is the gate's ``validity.machine_drift``.
    """

    levels: Sequence[float]
    probes_ms: Sequence[Sequence[float]]
    drift: float

    def __post_init__(self) -> None:
        """Raises ValueError when there are fewer than two sessions, or no probes of one."""
        if len(self.levels) < 2 or len(self.levels) != len(self.probes_ms):
            raise ValueError(
                f"{len(self.levels)} sessions and CPU probes of {len(self.probes_ms)}: two and as many are needed"
            )

    def draw(self, promotions: int, rng: np.random.Generator) -> Draw:
        """Ordered pairs, all equally likely."""
        count = len(self.levels)
        ours = rng.integers(count, size=promotions)
        theirs = (ours + rng.integers(1, count, size=promotions)) % count
        levels, steady = np.asarray(self.levels, dtype=np.float64), self._steady()
        return Draw(levels[ours], levels[theirs], steady[ours, theirs])

    def _steady(self) -> NDArray[np.bool_]:
        """[candidate, baseline]: what ``machine_steady`` says of each pair."""
        pairs = [
            [speed(ours, theirs).within(self.drift) for theirs in self.probes_ms] for ours in self.probes_ms
        ]  # fmt: skip
        return np.asarray(pairs, dtype=np.bool_)
