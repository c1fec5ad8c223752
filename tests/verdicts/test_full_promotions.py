"""Simulated promotions through the profiles that are promoted: how often each verdict falls when the truth is known.

``test_promotions.py`` does the same for the smoke profile of long-context. Here sessions differ as the gate files assume of a
GPU, and a repeat or a batch by 2 %.
"""

from __future__ import annotations

import pytest

from ds4bench.core import Cell, Verdict
from ds4bench.stats.ratio import ratio_estimate
from tests.verdicts.promotions import Noise, Slower, cold, decoded, full, promote, question, unchanged

PROMOTIONS = 200
SHARED = Noise(session=0.005, repeat=0.02)
"""All cells of a repeat are off together: nothing averages out over them."""
OF_BATCHES = Noise(session=0.005, batch=0.02)


@pytest.fixture(autouse=True)
def _fewer_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in ``stats/simulate.py``: an interval's width moves by 2 %, the rates do not, and it is much quicker."""
    defaults = ratio_estimate.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "resamples", 1_000)


def late(cell: Cell) -> float:
    """Decoding that is 20 % slower beyond 100K tokens of context and nowhere else."""
    return 1.2 if int(cell.params.get("prompt_tokens", 0)) > 100_000 else 1.0


def late_at_four(cell: Cell) -> float:
    """The same in one cell only, which moves the mean over all cells by 3 %: under its margin."""
    return late(cell) if cell.concurrency == 4 else 1.0


@pytest.mark.parametrize("slower", [late, late_at_four])
def test_decoding_that_is_slower_beyond_100k_fails_its_gate(slower: Slower) -> None:
    verdicts = promote(full("long-context-decode"), decoded, slower, SHARED, count=PROMOTIONS, seed=1)
    assert verdicts[Verdict.FAIL] >= 0.95 * PROMOTIONS


@pytest.mark.parametrize("noise", [SHARED, OF_BATCHES])
def test_unchanged_decoding_passes_its_gate(noise: Noise) -> None:
    verdicts = promote(full("long-context-decode"), decoded, unchanged, noise, count=PROMOTIONS, seed=2)
    assert verdicts[Verdict.FAIL] <= 0.01 * PROMOTIONS
    assert verdicts[Verdict.PASS] >= 0.8 * PROMOTIONS


def test_a_gate_of_short_prompts_passes_the_build_that_is_slower_beyond_100k() -> None:
    """Noise that a repeat's cells share would leave it INCONCLUSIVE: its margin of 3 % is under twice of it."""
    verdicts = promote(full("mt-bench"), question, late, OF_BATCHES, count=PROMOTIONS, seed=3)
    assert verdicts[Verdict.FAIL] <= 0.01 * PROMOTIONS
    assert verdicts[Verdict.PASS] >= 0.8 * PROMOTIONS


COLD = Noise(session=0.01, repeat=0.02)


def test_an_unchanged_build_passes_long_context_more_often_than_not() -> None:
    verdicts = promote(full("long-context"), cold, unchanged, COLD, count=PROMOTIONS, seed=4)
    assert verdicts[Verdict.FAIL] <= 0.02 * PROMOTIONS  # 1 % is promised: 4 of 200 is its 95 % limit
    assert verdicts[Verdict.PASS] >= 0.6 * PROMOTIONS


@pytest.mark.parametrize(
    ("noise", "most"),
    [
        (Noise(session=0.0, repeat=0.02), 0.03),  # sessions do not differ at all: 0.2 % of 3,000
        (COLD, 0.05),  # 3.0 % of 3,000
        pytest.param(Noise(session=0.01, batch=0.02), 0.05, marks=pytest.mark.slow),
        pytest.param(Noise(session=0.01, repeat=0.005), 0.05, marks=pytest.mark.slow),
    ],
)
def test_a_prefill_slower_by_just_the_margin_hardly_ever_passes(noise: Noise, most: float) -> None:
    """That it never does cannot be had of a noisy measurement: a change of just the margin may pass in 5 of 100."""
    verdicts = promote(full("long-context"), cold, lambda _: 1.05, noise, count=PROMOTIONS, seed=5)
    assert verdicts[Verdict.PASS] <= most * PROMOTIONS
