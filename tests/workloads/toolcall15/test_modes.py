"""How thinking is asked for, and what proves that it happened."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.core import CheckStatus
from ds4bench.errors import WorkloadError
from ds4bench.targets.dialect import dialect_of
from ds4bench.workloads.toolcall15.modes import MODES, effort_effective, mode_effective, mode_of
from ds4bench.workloads.toolcall15.reply import Reply
from ds4bench.workloads.toolcall15.trace import Trace


def held(play: Any, mode: str, reasoning: str | None, content: str = "1945", **more: Any) -> Trace:
    trace: Trace = play("TC-10", Reply(content=content, reasoning=reasoning, **more), mode=mode)
    return trace


def test_engines_get_the_effort_in_both_places_and_the_hosted_api_its_own_switch() -> None:
    high, plain = MODES["think-high"], MODES["non-thinking"]
    for engine in ("vllm", "sglang", "embedded"):
        assert high.body(dialect_of(engine).thinking) == {
            "reasoning_effort": "high",
            "chat_template_kwargs": {"thinking": True, "reasoning_effort": "high"},
        }
        assert plain.body(dialect_of(engine).thinking) == {"chat_template_kwargs": {"thinking": False}}
    hosted = dialect_of("hosted-deepseek").thinking
    assert MODES["think-max"].body(hosted) == {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}
    assert plain.body(hosted) == {"thinking": {"type": "disabled"}}
    assert high.body(dialect_of("llama.cpp").thinking) == {}
    with pytest.raises(WorkloadError, match="known: non-thinking, think-high, think-max"):
        mode_of("think-low")


def test_modes_that_took_effect_are_ok(play: Any) -> None:
    traces = [held(play, "non-thinking", None), held(play, "think-high", "War."), held(play, "think-max", "War.")]
    check = mode_effective(traces)
    assert (check.name, check.status) == ("mode_effective", CheckStatus.OK)
    assert "non-thinking: 0 of 1, think-high: 1 of 1, think-max: 1 of 1" in check.detail


def test_thinking_that_did_not_think_is_caught(play: Any) -> None:
    check = mode_effective([held(play, "think-high", None), held(play, "think-max", "War.")])
    assert (check.status, check.cells) == (CheckStatus.FAILED, ["think-high"])
    assert "only 0 of 1 conversations have reasoning" in check.detail


@pytest.mark.parametrize(
    "trace",
    [
        {"reasoning": "Hm."},
        {"reasoning": None, "reasoning_tokens": 12},
        {"reasoning": None, "content": "Hm.</think>1945"},
    ],
)
def test_a_non_thinking_mode_that_thinks_is_caught_wherever_it_shows(play: Any, trace: dict[str, Any]) -> None:
    quiet = [held(play, "non-thinking", None) for _ in range(14)]
    assert mode_effective(quiet).status is CheckStatus.OK
    check = mode_effective([*quiet, held(play, "non-thinking", **trace)])
    assert check.status is CheckStatus.FAILED
    assert "1 of 15" in check.detail


def test_reasoning_left_in_the_content_asks_for_the_parser(play: Any) -> None:
    check = mode_effective([held(play, "think-max", None, "<think>Hm.</think>1945")])
    assert check.status is CheckStatus.FAILED
    assert "reasoning parser" in check.detail


def test_one_conversation_without_a_thought_among_many_is_the_models_choice(play: Any) -> None:
    thinking = [held(play, "think-high", "War.") for _ in range(14)]
    assert mode_effective([*thinking, held(play, "think-high", None)]).status is CheckStatus.OK
    assert (
        mode_effective([*thinking[:7], *(held(play, "think-high", " ") for _ in range(7))]).status is CheckStatus.FAILED
    )


def test_reasoning_in_a_later_turn_counts(play: Any) -> None:
    call = ("get_weather", {"location": "Berlin"})
    trace = play("TC-01", [call], Reply(content="8C", reasoning="Good."), mode="think-high")
    assert mode_effective([trace]).status is CheckStatus.OK


def test_conversations_without_a_reply_prove_nothing(play: Any) -> None:
    assert mode_effective([]).status is CheckStatus.UNVERIFIED
    dead = play("TC-10", Reply(error="connect"), mode="think-high")
    assert mode_effective([dead]).status is CheckStatus.UNVERIFIED
    assert mode_effective([dead, held(play, "think-high", None)]).status is CheckStatus.FAILED


def test_efforts_show_in_the_length_of_the_prompt(play: Any) -> None:
    def pair(high: int | None, top: int | None) -> list[Trace]:
        modes = (("think-high", high), ("think-max", top))
        return [held(play, mode, "Hm.", prompt_tokens=count) for mode, count in modes]

    assert effort_effective(pair(900, 930)).status is CheckStatus.OK
    assert effort_effective(pair(900, 900)).status is CheckStatus.UNVERIFIED
    assert effort_effective(pair(900, None)).status is CheckStatus.NOT_APPLICABLE
