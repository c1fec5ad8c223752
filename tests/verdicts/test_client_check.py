"""Was the client quick enough for the times that rules judge?"""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.core import CheckStatus

OK, FAILED = CheckStatus.OK, CheckStatus.FAILED


@pytest.mark.parametrize(
    ("health", "part"),
    [
        (
            {"heartbeat_lag_p99_ms": 60.0},
            "60.0 ms event-loop lag against 5 % of the TTFT of 1019.9 ms allowed",
        ),
        ({"heartbeat_lag_p99_ms": 6.0}, "event-loop lag against 20 % of the chunk gap of 25.0 ms"),
        ({"lateness_max_ms": 80.0}, "late start against 5 % of the TTFT"),
    ],
)
def test_starved_client_fails(world: Any, health: dict[str, Any], part: str) -> None:
    few_gaps = {} if "gap" in part else {"chunk_times_s": []}
    judged = ("rules.ttft.metric=tpot_ms",) if "gap" in part else ()
    result = world.check("client_not_starved", *judged, health=health, result=few_gaps)
    assert result.status is FAILED
    assert part in result.detail


def test_a_lag_against_chunk_gaps_is_said_but_fails_nothing_where_no_rule_judges_gaps(world: Any) -> None:
    result = world.check("client_not_starved", health={"heartbeat_lag_p99_ms": 6.0})
    assert result.status is OK
    assert "not to be trusted" in result.detail
    assert "6.0 ms event-loop lag against 20 % of the chunk gap of 25.0 ms" in result.detail


def test_a_rule_on_the_scaling_of_decode_judges_chunk_gaps(world: Any) -> None:
    scaling = "rules.ttft={name: ttft, kind: scaling, measure: decode_tok_s, at_least: 0.4}"
    assert world.check("client_not_starved", scaling, health={"heartbeat_lag_p99_ms": 6.0}).status is FAILED


@pytest.mark.parametrize(
    ("limit", "health", "part"),
    [
        (
            "itl_p99_ms, at_most: 30",
            {"heartbeat_lag_p99_ms": 7.0},
            "7.0 ms event-loop lag against 20 % of the limit of 30",
        ),
        ("tpot_median_ms, at_most: 30", {"heartbeat_lag_p99_ms": 7.0}, "of the limit of 30 ms on tpot_median_ms"),
        ("decode_tok_s, at_least: 40", {"heartbeat_lag_p99_ms": 6.0}, "of the limit of 25 ms on decode_tok_s"),
        ("itl_max_ms, at_most: 2500", {"heartbeat_lag_max_ms": 600.0}, "600.0 ms longest event-loop lag against 20 %"),
        ("ttft_max_s, at_most: 10", {"heartbeat_lag_max_ms": 600.0}, "5 % of the limit of 10,000 ms on ttft_max_s"),
    ],
)
def test_a_lag_that_a_limit_on_times_cannot_bear_starves_the_client(
    world: Any, limit: str, health: dict[str, Any], part: str
) -> None:
    judged = f"rules.ttft={{name: ttft, kind: limit, measure: {limit}}}"
    result = world.check("client_not_starved", judged, health=health)
    assert result.status is FAILED
    assert part in result.detail


def test_a_limit_that_is_broken_by_far_is_not_excused_by_a_small_lag(world: Any) -> None:
    """The client cannot have made a first token that comes a thousand times too late: it is the rule that must FAIL."""
    broken = "rules.ttft={name: ttft, kind: limit, measure: ttft_max_s, at_most: 0.0001}"
    assert world.check("client_not_starved", broken, health={"heartbeat_lag_max_ms": 5.0}).status is OK


def test_a_lag_that_a_wide_limit_bears_is_said_to_be_judged_by_it(world: Any) -> None:
    stall = "rules.ttft={name: ttft, kind: limit, measure: itl_max_ms, at_most: 2500}"
    result = world.check(
        "client_not_starved", stall, health={"heartbeat_lag_p99_ms": 6.0, "heartbeat_lag_max_ms": 40.0}
    )
    assert result.status is OK
    assert "not to be trusted" in result.detail
    assert "itl_max_ms is judged by a limit that bears it" in result.detail
    assert "no rule judges them" not in result.detail


def test_a_lag_against_first_tokens_is_said_but_fails_nothing_where_only_chunks_are_judged(world: Any) -> None:
    tpot = "rules.ttft={name: ttft, kind: ratio, metric: tpot_decode_ms, margin: 0.1, session_cv: 0.01}"
    wide = "validity.max_client_lag_share_gap=0.9"
    late = {"lateness_max_ms": 60.0, "heartbeat_lag_p99_ms": 1.0}
    result = world.check("client_not_starved", tpot, wide, health=late)
    assert result.status is OK
    assert "times to first tokens of" in result.detail
    assert "60.0 ms late start against 5 % of the TTFT" in result.detail
    assert world.check("client_not_starved", health=late).status is FAILED


def test_few_chunk_gaps_are_not_compared_with_the_lag(world: Any) -> None:
    few = {"chunk_times_s": [1.0, 1.01, 1.02]}
    assert world.check("client_not_starved", health={"heartbeat_lag_p99_ms": 6.0}, result=few).status is OK
