"""An artificial slowdown, to test that gates see one."""

from __future__ import annotations

import time

from torch import Tensor

from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.engine import Runner


class PrefillDelay:
    """Makes every step that contains prefill longer by ``share`` of its own duration."""

    def __init__(self, runner: Runner, share: float) -> None:
        self._runner = runner
        self._share = share

    def step(self, inputs: list[StepInput]) -> Tensor:
        """Run the step, then wait."""
        started = time.perf_counter()
        logits = self._runner.step(inputs)
        if not all(item.is_decode for item in inputs):
            time.sleep((time.perf_counter() - started) * self._share)
        return logits

    def draft(self, inputs: list[StepInput], sources: list[int]) -> Tensor:
        """Draft without delay."""
        return self._runner.draft(inputs, sources)
