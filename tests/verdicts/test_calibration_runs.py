"""The noise of a gate's rules from A/A runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ds4bench.calibration_runs import measure_sessions, noise_of, refuse_early
from ds4bench.errors import SpecError, StoreError, TargetError
from ds4bench.report.progress import SilentProgress
from ds4bench.run_session import TargetOptions, prepare


def sessions(world: Any, gate: Any, count: int, session_cv: float, repeat_cv: float) -> list[Any]:
    rng = np.random.default_rng(3)

    def one() -> Any:
        levels = np.exp(rng.normal(0, session_cv) + rng.normal(0, repeat_cv, gate.spec.repeats.count))
        return world.run(gate, ttft=lambda cell, repeat, index: float(levels[repeat] * (index + 1)))

    return [one() for _ in range(count)]


def test_the_noise_between_sessions_is_found_and_a_margin_under_it_refused(world: Any) -> None:
    gate = world.gate(repeats=4)
    (quiet,) = noise_of(gate, sessions(world, gate, 40, 0.0, 0.01))
    assert quiet.noise.repeat_cv == pytest.approx(0.01, rel=0.2)
    assert quiet.noise.session_cv < 0.005
    assert quiet.refusal is None
    (loud,) = noise_of(gate, sessions(world, gate, 40, 0.06, 0.01))
    assert loud.noise.session_cv == pytest.approx(0.06, rel=0.25)
    assert loud.noise.session_cv_upper > loud.noise.session_cv
    assert loud.refusal is not None
    assert loud.refusal.startswith("margin 10 % is under what can be seen: with 4 repeats")
    assert loud.measured.startswith("ttft: over 40 sessions of one build: noise between repeats 1.")


def test_two_sessions_or_a_gate_without_comparison_cannot_be_calibrated(world: Any) -> None:
    gate = world.gate(repeats=4)
    with pytest.raises(StoreError, match="rule ttft cannot be calibrated: 2 sessions"):
        noise_of(gate, sessions(world, gate, 2, 0.0, 0.01))
    absolute = world.gate("rules=[{kind: zero_failures}]")
    with pytest.raises(SpecError, match="no rule that compares a time"):
        refuse_early(absolute, "here", measured=True)
    with pytest.raises(SpecError, match="give --repeats 2 or more"):
        refuse_early(world.gate(repeats=1), "here", measured=True)
    refuse_early(world.gate(repeats=1), "here", measured=False)  # stored runs have the repeats that they have


async def test_a_serve_that_somebody_else_started_is_not_restarted(world: Any) -> None:
    prepared = prepare(world.gate(), None)
    with pytest.raises(TargetError, match="cannot restart one that it did not launch"):
        await measure_sessions(prepared, TargetOptions("attach", "http://127.0.0.1:1"), 3, SilentProgress())
