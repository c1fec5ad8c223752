"""The cold proof: two sources, and neither may lie."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.core import CheckResult, CheckStatus
from ds4bench.verdicts.checks.cold import cold_verified
from ds4bench.verdicts.evidence import gather


def cold(world: Any, *overrides: str, **changes: Any) -> CheckResult:
    gate = world.gate(*overrides)
    return cold_verified(gather(gate, world.run(gate, **changes), None))


def test_warm_prompt_fails_and_names_cell_and_tokens(world: Any) -> None:
    result = cold(
        world,
        result={"cached_tokens": 2048, "prompt_tokens": 2049},
        where=lambda row: row.cell == "p2048-c1" and row.repeat > 0,
    )
    assert result.status is CheckStatus.FAILED
    assert result.cells == ["p2048-c1"]
    assert result.detail == (
        "prompt was served from the prefix cache: 2,048 of 2,049 tokens cached in cell p2048-c1 "
        "(2 requests); the prompts are not cold: is request.salt off?"
    )


def test_usage_alone_and_counters_alone_are_proof(world: Any) -> None:
    zero = {"counters": {"prefix_cache_hits": 0.0}}
    assert cold(world).status is CheckStatus.OK
    assert cold(world, result={"cached_tokens": None}, batch=zero).status is CheckStatus.OK
    both = cold(world, batch=zero)
    assert both.status is CheckStatus.OK
    assert "agree" in both.detail


def test_usage_that_says_zero_while_the_counter_rises_is_a_lie(world: Any) -> None:
    result = cold(world, batch={"counters": {"prefix_cache_hits": 512.0}})
    assert result.status is CheckStatus.FAILED
    assert "usage says 0 cached tokens, but the serve's counter rose by 6,144 tokens" in result.detail


def test_counter_alone_can_fail(world: Any) -> None:
    result = cold(world, result={"cached_tokens": None}, batch={"counters": {"prefix_cache_hits": 512.0}})
    assert result.status is CheckStatus.FAILED
    assert "usage says" not in result.detail


@pytest.mark.parametrize(
    ("engine", "flag", "other"),
    [
        ("vLLM", "--enable-prompt-tokens-details", "--enable-cache-report"),
        ("sglang", "--enable-cache-report", "--enable-prompt-tokens-details"),
    ],
)
def test_without_a_source_it_is_unverified_and_names_the_flag(world: Any, engine: str, flag: str, other: str) -> None:
    result = cold(world, result={"cached_tokens": None}, fingerprint={"engine": engine})
    assert result.status is CheckStatus.UNVERIFIED
    assert flag in result.detail
    assert other not in result.detail


def test_one_request_without_cached_tokens_is_enough_to_doubt(world: Any) -> None:
    result = cold(world, result={"cached_tokens": None}, where=lambda row: row.index == 1)
    assert result.status is CheckStatus.UNVERIFIED


def test_gate_that_does_not_ask_for_cold_is_not_applicable(world: Any) -> None:
    result = cold(world, "validity.cold=false", result={"cached_tokens": 5})
    assert result.status is CheckStatus.NOT_APPLICABLE
