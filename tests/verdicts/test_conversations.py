"""Checks of conversations with tools, each made to fail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ds4bench.core import CheckResult, CheckStatus, Fingerprint, RequestResult, RunData
from ds4bench.spec.load import load_gate
from ds4bench.verdicts.checks.conversations import effort_effective, reasoning_parsed, replies_not_cut, tools_called
from ds4bench.verdicts.checks.mode import mode_effective
from ds4bench.verdicts.evidence import Evidence, gather
from tests.records import batch_row, request_row, run_manifest

GATES = Path(__file__).parents[2] / "gates"
Reply = dict[str, Any]
EFFORTS = {"non-thinking": None, "think-high": "high", "think-max": "max"}


def evidence(reply: Callable[[str, int, int], Reply], *, weights: str = "trained", most: int = 10) -> Evidence:
    """A run of the full gate: ten conversations of two turns a mode; ``reply(mode, conversation, turn)`` changes results."""
    gate = load_gate("toolcall-15", repeats=1, overrides=[f"request.max_tokens={most}"], directory=GATES)
    requests, batches = [], []
    for cell in gate.spec.matrix.cells():
        effort = EFFORTS[cell.id]
        for script in range(10):
            for turn in range(2):
                values: Reply = {
                    "ok": True, "content": "Hi", "reasoning": "Hm." if effort and not turn else "", "model": "m",
                    "prompt_tokens": 100 + 10 * turn + 5 * (effort == "max"), "finish_reason": "stop",
                }  # fmt: skip
                expect = {
                    "scenario": f"TC-{script}",
                    "effort": effort,
                    "thinking": None if effort and turn else effort is not None,
                }
                requests.append(
                    request_row(
                        cell.id, index=2 * script + turn, script=script, turn=turn, expect={**expect, "tools": True},
                        result=RequestResult(**{**values, **reply(cell.id, script, turn)}),
                    )
                )  # fmt: skip
        batches.append(batch_row(cell.id, requests=20, delivered_concurrency=4.0))
    manifest = run_manifest(gate, fingerprint=Fingerprint(engine="e", model="m", weights=weights))
    return gather(gate, RunData(manifest=manifest, requests=requests, batches=batches), None)


def plain(mode: str, script: int, turn: int) -> Reply:
    return {"tool_calls": [{"name": "f"}]} if not turn else {}


def status(check: Callable[[Evidence], CheckResult], reply: Any, **options: Any) -> tuple[CheckStatus, str]:
    result = check(evidence(reply, **options))
    return result.status, result.detail


@pytest.mark.parametrize("check", [mode_effective, reasoning_parsed, effort_effective, replies_not_cut, tools_called])
def test_a_healthy_run_passes(check: Any) -> None:
    assert status(check, plain)[0] is CheckStatus.OK


def test_a_thinking_mode_without_reasoning_is_invalid_and_a_second_turn_without_it_is_not() -> None:
    found, detail = status(mode_effective, lambda mode, script, turn: {"reasoning": ""})
    assert found is CheckStatus.FAILED
    assert "think-high: thinking was asked for, but 10 of 10 replies carry no reasoning" in detail


def test_a_mode_that_thinks_does_not_answer_for_one_that_never_does() -> None:
    found, detail = status(mode_effective, lambda mode, script, turn: {"reasoning": ""} if mode == "think-max" else {})
    assert found is CheckStatus.FAILED
    assert "think-max: thinking was asked for, but 10 of 10 replies carry no reasoning" in detail
    assert "think-high" not in detail


@pytest.mark.parametrize(("silent", "expected"), [(2, CheckStatus.OK), (3, CheckStatus.FAILED)])
def test_a_reply_now_and_then_without_a_thought_is_the_models_choice(silent: int, expected: CheckStatus) -> None:
    some = lambda mode, script, turn: {"reasoning": ""} if mode == "think-high" and script < silent else {}  # noqa: E731
    assert status(mode_effective, some)[0] is expected


def test_reasoning_in_any_turn_of_the_non_thinking_mode_is_invalid() -> None:
    one = lambda mode, script, turn: {"reasoning": "Hm."} if (mode, script, turn) == ("non-thinking", 4, 1) else {}  # noqa: E731
    found, detail = status(mode_effective, one)
    assert found is CheckStatus.FAILED
    assert "1 of 20 replies carry reasoning" in detail


def test_a_thinking_tag_in_the_content_is_a_missing_parser_unless_the_weights_are_random() -> None:
    tagged = lambda mode, script, turn: {"content": "Hm.</think>Hi"} if script == 3 else {}  # noqa: E731
    found, detail = status(reasoning_parsed, tagged)
    assert found is CheckStatus.FAILED
    assert "6 of 60 replies" in detail
    assert "reasoning parser" in detail
    assert status(reasoning_parsed, tagged, weights="random")[0] is CheckStatus.NOT_APPLICABLE


def test_efforts_whose_prompts_are_equally_long_are_not_verified() -> None:
    found, detail = status(effort_effective, lambda mode, script, turn: {"prompt_tokens": 100})
    assert found is CheckStatus.UNVERIFIED
    assert "reasoning_effort may be ignored" in detail
    assert status(effort_effective, lambda mode, script, turn: {"prompt_tokens": None})[0] is CheckStatus.NOT_APPLICABLE


def test_more_than_a_tenth_of_cut_conversations_are_about_the_limit_and_not_the_model() -> None:
    cut = lambda most: lambda mode, script, turn: {"finish_reason": "length"} if script < most and turn else {}  # noqa: E731
    assert status(replies_not_cut, cut(1))[0] is CheckStatus.OK
    found, detail = status(replies_not_cut, cut(2))
    assert found is CheckStatus.FAILED
    assert "6 of 30 conversations have a reply cut at max_tokens 10" in detail
    assert status(replies_not_cut, cut(2), weights="random")[0] is CheckStatus.NOT_APPLICABLE


def test_a_gate_on_calls_without_a_single_call_measured_nothing() -> None:
    found, detail = status(tools_called, lambda mode, script, turn: {})
    assert found is CheckStatus.FAILED
    assert "0 of 60 replies" in detail
    assert status(tools_called, lambda mode, script, turn: {}, weights="random")[0] is CheckStatus.NOT_APPLICABLE
