"""A first request that compiles kernels inside a measured cell is flagged; what machines do by themselves is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from ds4bench.core import CheckResult, CheckStatus, Verdict
from ds4bench.verdicts.checks import run_checks
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.evidence import gather
from tests.verdicts.conftest import plain_ttft

OK, UNVERIFIED, NOT_APPLICABLE = CheckStatus.OK, CheckStatus.UNVERIFIED, CheckStatus.NOT_APPLICABLE
COLD = "p2048-c2"


def compiled(cell: str, repeat: int, index: int) -> float:
    """Both requests of the cell's first batch wait for three seconds."""
    return plain_ttft(cell, repeat, index) + (3.0 if (cell, repeat) == (COLD, 0) else 0.0)


def judged(world: Any, *overrides: str, repeats: int = 4, **changes: Any) -> CheckResult:
    gate = world.gate(*overrides, repeats=repeats)
    results = run_checks(gather(gate, world.run(gate, **changes), None))
    return next(result for result in results if result.name == "warmed_up")


def of_c1(means: Sequence[float]) -> dict[str, Any]:
    """Times to first tokens of p2048-c1 by repeat, in seconds."""

    def ttft(cell: str, repeat: int, index: int) -> float:
        return means[repeat] if cell == "p2048-c1" else plain_ttft(cell, repeat, index)

    return {"ttft": ttft, "repeats": len(means)}


def test_a_first_request_that_compiles_flags_its_cell_and_keeps_the_run_from_a_verdict(world: Any) -> None:
    result = judged(world, "warmup.requests_per_cell=0", ttft=compiled)
    assert (result.status, result.cells) == (UNVERIFIED, [COLD])
    assert "the first batch of p2048-c2 is an outlier: a mean TTFT of 4,530 ms, of at most 1,5" in result.detail
    assert "no warm-up was asked for: set warmup.requests_per_cell" in result.detail

    gate = world.gate("warmup.requests_per_cell=0", repeats=4)
    verdict = decide(gate, world.run(gate, ttft=compiled), world.baseline(world.run(gate)))
    assert verdict.verdict is Verdict.INCONCLUSIVE
    assert verdict.sentence == result.detail
    assert decide(gate, world.run(gate), world.baseline(world.run(gate))).verdict is Verdict.PASS


def test_with_a_warm_up_the_advice_is_another(world: Any) -> None:
    assert "in spite of the warm-up" in judged(world, ttft=compiled).detail
    assert judged(world).status is OK


def test_compiling_at_the_first_decode_step_is_seen_in_the_time_per_token(world: Any) -> None:
    slow = {"tpot_ms": 40.0}
    result = judged(world, result=slow, where=lambda row: (row.cell, row.repeat) == (COLD, 0))
    assert (result.status, result.cells) == (UNVERIFIED, [COLD])
    assert "a mean time per token of 40 ms, of at most 25 ms" in result.detail


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([3.0, 1.0, 1.1, 1.05], UNVERIFIED),
        ([1.0, 3.0, 1.1, 1.05], OK),  # a neighbour came by: no cold start
        ([1.4, 1.0, 1.1, 1.05], OK),  # a noisy machine
        ([2.2, 1.0, 1.5, 0.9], OK),  # within three spreads
        ([0.3, 0.1, 0.1, 0.1], OK),  # a fifth of a second, whatever the factor
        ([2.2, 1.0, 1.0], OK),  # two others have no spread: three times as slow is asked
        ([3.2, 1.0, 1.0], UNVERIFIED),
        ([3.2, 1.0], UNVERIFIED),
        ([9.0], NOT_APPLICABLE),
    ],
)
def test_only_what_no_noise_explains_is_an_outlier(world: Any, means: list[float], expected: CheckStatus) -> None:
    assert judged(world, **of_c1(means)).status is expected
