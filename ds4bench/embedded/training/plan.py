"""The course of a training run as functions of its progress, 0 at the start and 1 at the end."""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import Any

WARMUP = 0.02
DECAY_FROM = 0.6
QUANTISE_FROM = 0.65
SPARSE_FROM = 0.75
_LENGTHS = (  # until this progress: lengths and their shares of the steps
    (0.12, {512: 1.0}),
    (0.50, {512: 0.4, 2048: 0.6}),
    (1.01, {512: 0.3, 2048: 0.5, 8192: 0.2}),
)


@dataclass(frozen=True)
class Plan:
    """A run ends after ``minutes`` of training, or after ``steps`` where that is given; all sessions together."""

    seed: int = 20_260_601
    minutes: float = 9.5
    steps: int | None = None
    batch_tokens: int = 32_768
    rate: float = 2e-3
    weight_decay: float = 0.05
    mtp_weight: float = 0.3
    index_weight: float = 0.3
    balance_speed: float = 2e-3
    max_length: int = 8192

    def progress(self, step: int, seconds: float) -> float:
        """How far the run is after this many steps and seconds."""
        return min(1.0, step / self.steps if self.steps is not None else seconds / (60 * self.minutes))

    def length(self, step: int, progress: float) -> int:
        """Tokens of a row at this step."""
        shares = next(shares for limit, shares in _LENGTHS if progress < limit)
        rng = random.Random(f"length {self.seed} {step}")  # noqa: S311 - training data
        return min(self.max_length, rng.choices(list(shares), list(shares.values()))[0])

    def as_dict(self) -> dict[str, Any]:
        """For the report."""
        return asdict(self)


def rate_factor(progress: float) -> float:
    """Learning rate over its peak: linear warm-up, constant, then down to 2 % with 1 - sqrt (arXiv:2405.18392)."""
    if progress < WARMUP:
        return (progress + 1e-3) / (WARMUP + 1e-3)
    if progress < DECAY_FROM:
        return 1.0
    return max(0.02, 1.0 - math.sqrt((progress - DECAY_FROM) / (1.0 - DECAY_FROM)))
