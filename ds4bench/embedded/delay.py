"""An artificial slowdown, to test that gates see one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ds4bench.embedded.batch import StepInput

Step = Callable[["list[StepInput]"], "Tensor"]


def slowed(step: Step, share: float, applies: Callable[[list[StepInput]], bool]) -> Step:
    """A runner's ``step`` that waits, after each step that it ``applies`` to, for ``share`` of the step's duration."""

    def slow_step(inputs: list[StepInput]) -> Tensor:
        started = time.perf_counter()
        logits = step(inputs)
        if applies(inputs):
            time.sleep((time.perf_counter() - started) * share)
        return logits

    return slow_step
