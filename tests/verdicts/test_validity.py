"""Every validity check: it holds for a healthy run, and one thing makes it fail."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ds4bench.core import Answer, CheckStatus, Verdict
from ds4bench.verdicts.checks import run_checks
from ds4bench.verdicts.checks.mode import mode_effective
from ds4bench.verdicts.decide import decide
from ds4bench.verdicts.evidence import gather
from tests.records import GPU

OK, FAILED = CheckStatus.OK, CheckStatus.FAILED
UNVERIFIED, NOT_APPLICABLE = CheckStatus.UNVERIFIED, CheckStatus.NOT_APPLICABLE


def test_every_check_holds_for_a_healthy_run_and_keeps_its_name(world: Any) -> None:
    gate = world.gate()
    run = world.run(gate)
    results = run_checks(gather(gate, run, world.baseline(run)))
    assert [r.name for r in results] == list(gate.spec.declared.checks)
    assert {r.status for r in results} == {OK}


def test_nothing_measured_is_not_applicable_and_never_ok(world: Any) -> None:
    gate = world.gate()
    results = run_checks(gather(gate, world.run(gate, batches_done=0, died="killed"), None))
    assert results[0].status is FAILED
    assert {r.status for r in results[1:]} == {NOT_APPLICABLE}


def test_dead_server_fails_and_says_how_to_resume(world: Any) -> None:
    result = world.check("server_alive", died="exit code -9", batches_done=5)
    assert result.status is FAILED
    assert result.detail == (
        "server died (exit code -9): 5 of 12 batches measured; "
        "resume with --resume 20261121-031500-long-context-smoke-ab12"
    )


def test_a_death_is_told_though_the_run_was_resumed_or_had_its_last_batch(world: Any) -> None:
    gate = world.gate()
    for deaths, words in (
        (["exit code -9"], "died once (exit code -9)"),
        (["hung", "killed"], "died 2 times (killed)"),
    ):
        run = msgspec.structs.replace(world.run(gate), deaths_before=deaths)
        result = next(r for r in run_checks(gather(gate, run, None)) if r.name == "server_alive")
        assert result.status is OK
        assert result.detail == f"{words}; the run was resumed and is complete"
    result = world.check("server_alive", died="exit code -9")
    assert (result.status, result.detail) == (OK, "died after the last batch (exit code -9)")


def test_failed_request_is_counted_by_kind_and_cell(world: Any) -> None:
    result = world.check(
        "all_requests_ok",
        result={"ok": False, "error": "deadline", "error_detail": "no last token after 120 s"},
        where=lambda row: row.cell == "p8192-c2" and row.repeat == 1,
    )
    assert result.status is FAILED
    assert result.cells == ["p8192-c2"]
    assert result.detail == ("2 of 18 requests failed (deadline x2) in p8192-c2: no last token after 120 s")


def test_request_without_a_row_is_missing(world: Any) -> None:
    gate = world.gate()
    run = world.run(gate)
    torn = msgspec.structs.replace(run, requests=run.requests[1:])
    result = next(r for r in run_checks(gather(gate, torn, None)) if r.name == "all_requests_ok")
    assert result.status is FAILED
    assert "missing x1" in result.detail


def test_rows_of_an_unfinished_attempt_do_not_count(world: Any) -> None:
    gate = world.gate()
    run = world.run(gate)
    lost = msgspec.structs.replace(
        run.requests[0],
        attempt=1,
        result=msgspec.structs.replace(run.requests[0].result, ok=False, error="disconnect"),
    )
    evidence = gather(gate, msgspec.structs.replace(run, requests=[*run.requests, lost]), None)
    assert {r.status for r in run_checks(evidence)} <= {OK, NOT_APPLICABLE}


def test_reply_of_another_model_fails(world: Any) -> None:
    result = world.check("model_identity", result={"model": "newer"}, where=lambda row: row.index == 1)
    assert result.status is FAILED
    assert "replies came from model newer, asked for was ds4-tiny" in result.detail


def test_replies_that_name_no_model_are_unverified(world: Any) -> None:
    assert world.check("model_identity", result={"model": None}).status is UNVERIFIED
    assert world.check("model_identity", manifest={"fingerprint": None}).status is UNVERIFIED


def test_truncated_prompt_fails_as_truncation(world: Any) -> None:
    def at_8192(row: Any) -> bool:
        return bool(row.cell == "p8192-c1")

    result = world.check("no_truncation", result={"prompt_tokens": 4096}, where=at_8192)
    assert result.status is FAILED
    assert "worst 4,096 of 8,192 tokens in p8192-c1" in result.detail
    assert world.check("no_truncation", result={"prompt_tokens": 9000}, where=at_8192).status is OK


@pytest.mark.parametrize(("tokens", "status"), [(8192, OK), (8270, OK), (8290, FAILED), (8100, FAILED)])
def test_prompt_length_is_held_within_one_percent(world: Any, tokens: int, status: CheckStatus) -> None:
    result = world.check("length_within", result={"prompt_tokens": tokens}, where=lambda row: "8192" in row.cell)
    assert result.status is status


LOST = Answer(scores={"recall": 0.0})
STILL_THINKING = {"content": "", "reasoning": "The user wants three codes.", "finish_reason": "length"}


def test_codes_that_thinking_left_no_room_for_make_the_run_invalid(world: Any) -> None:
    gate = world.gate()
    run = world.run(gate, result=STILL_THINKING, row={"answer": LOST}, fingerprint={"weights": "trained"})
    verdict = decide(gate, run, None)
    assert verdict.verdict is Verdict.INVALID
    assert "18 of 18 replies were cut at max_tokens while still reasoning" in verdict.sentence
    assert world.check("codes_not_cut", result=STILL_THINKING).status is NOT_APPLICABLE  # random weights


def test_most_replies_of_one_cell_are_enough_and_single_ones_are_the_models(world: Any) -> None:
    trained = {"weights": "trained"}
    one_cell = {"result": STILL_THINKING, "where": lambda row: row.cell == "p8192-c1", "fingerprint": trained}
    found = world.check("codes_not_cut", **one_cell)
    assert (found.status, found.cells) == (FAILED, ["p8192-c1"])
    one_reply = {**one_cell, "where": lambda row: row.cell == "p8192-c1" and row.repeat == 0}
    assert world.check("codes_not_cut", **one_reply).status is OK


@pytest.mark.parametrize(
    "reply",
    [
        {"content": "ooo", "reasoning": "", "finish_reason": "length"},  # a broken model says nothing and does not end
        {"content": "", "reasoning": "Hm.", "finish_reason": "stop"},  # it ended by itself
    ],
)
def test_a_reply_that_is_only_wrong_fails_by_its_recall_and_not_as_cut(world: Any, reply: dict[str, Any]) -> None:
    gate = world.gate()
    run = world.run(gate, result=reply, row={"answer": LOST}, fingerprint={"weights": "trained"})
    assert decide(gate, run, None).verdict is Verdict.FAIL


def test_length_without_usage_is_unverified(world: Any) -> None:
    assert world.check("length_within", result={"prompt_tokens": None}).status is UNVERIFIED


def test_what_the_workload_expects_goes_before_the_cell(world: Any) -> None:
    changed = {"result": {"prompt_tokens": 5000}, "row": {"expect": {"prompt_tokens": 5000}}}
    assert world.check("length_within", **changed).status is OK


def test_requests_one_after_the_other_are_no_concurrency(world: Any) -> None:
    result = world.check("delivered_concurrency", batch={"delivered_concurrency": 1.0})
    assert result.status is FAILED
    assert result.cells == ["p2048-c2", "p8192-c2"]
    assert "only 1 of 2 requests" in result.detail


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"ttft_s": 0.0}, "ttft_s is 0"),
        ({"ttft_s": -0.1}, "ttft_s is negative"),
        ({"ttft_s": None}, "ttft_s is missing"),
        ({"ttft_s": float("nan")}, "ttft_s is nan"),
        ({"e2e_s": float("inf")}, "e2e_s is inf"),
        ({"tpot_ms": -1.0}, "tpot_ms is negative"),
        ({"tpot_decode_ms": 0.0}, "time per output token is 0"),
        ({"ttft_s": 99.0}, "after the last token"),
        ({"completion_tokens": 15}, "15 tokens in 16 chunks"),
        ({"completion_tokens": 0, "chunk_times_s": []}, "0 tokens in 0 chunks"),
    ],
)
def test_impossible_value_fails(world: Any, values: dict[str, Any], why: str) -> None:
    result = world.check("possible_values", result=values, where=lambda row: row.cell == "p2048-c1")
    assert result.status is FAILED
    assert why in result.detail
    assert result.cells == ["p2048-c1"]


def test_a_client_that_sees_the_first_token_before_the_serve_makes_a_run_invalid(world: Any) -> None:
    early = {"result": {"ttft_s": 0.4}, "where": lambda row: row.cell == "p2048-c1"}
    result = world.check("ttft_sources_agree", **early)
    assert result.status is FAILED
    assert result.cells == ["p2048-c1"]
    assert "a mean TTFT of 400 ms here, of 1,026 ms by the serve's own histogram, in p2048-c1" in result.detail
    edge = {"result": {"ttft_s": 0.9}, "where": lambda row: row.cell == "p2048-c1"}
    assert world.check("ttft_sources_agree", **edge).status is OK


def test_a_proxy_before_the_serve_is_said_and_fails_nothing(world: Any) -> None:
    near = world.check("ttft_sources_agree")
    assert near.detail == "the client's mean TTFT is 2 ms above the serve's own in 12 batches"
    behind = world.check("ttft_sources_agree", result={"ttft_s": 3.0}, where=lambda row: row.cell == "p2048-c1")
    assert behind.status is OK
    assert "up to 1,982 ms more than its 1,018 ms in p2048-c1: the network, a proxy" in behind.detail


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": {"counters": {"generation_tokens": 16.0}}},
        {"batch": {"counters": {"ttft_seconds_sum": 90.0}}},
        {"batch": {"counters": {"ttft_seconds_sum": 90.0, "ttft_seconds_count": 7.0}}},
        {"batch": {"counters": {"ttft_seconds_sum": 0.0, "ttft_seconds_count": 0.0}}},
        {"result": {"ok": False, "error": "deadline"}},
        {"result": {"ttft_s": None}},
    ],
)
def test_a_histogram_that_is_not_there_or_of_other_requests_says_nothing(world: Any, changes: dict[str, Any]) -> None:
    assert world.check("ttft_sources_agree", **changes).status is NOT_APPLICABLE


def test_neighbours_of_a_serve_that_was_not_launched_are_unknown(world: Any) -> None:
    result = world.check("machine_quiet", batch={"foreign_cores": None})
    assert result.status is CheckStatus.NOT_APPLICABLE


def gpu(**changes: Any) -> Any:
    return msgspec.structs.replace(GPU, **changes)


def test_gpus_that_nothing_disturbed_are_said_with_clock_power_and_heat(world: Any) -> None:
    after = [gpu(), gpu(gpu=1, sm_clock_mhz=1965, power_w=650.0, temperature_c=74)]
    result = world.check("gpu_quiet", batch={"gpus_after": after})
    assert result.status is OK
    assert result.detail == (
        "GPU 0, 1: not slowed down, nobody else computed there; "
        "after a batch SM clock 1,972 MHz (1,965-1,980), 670 W, at most 74 C"
    )


@pytest.mark.parametrize("side", ["gpus_before", "gpus_after"])
def test_a_foreign_process_on_the_serves_gpu_fails_and_is_named_with_its_cells(world: Any, side: str) -> None:
    run = world.run(world.gate())
    shared = [
        msgspec.structs.replace(batch, **{side: [gpu(foreign={4242: "python3"})]})
        if (batch.cell, batch.repeat) == ("p8192-c2", 1)
        else batch
        for batch in run.batches
    ]
    results = run_checks(gather(world.gate(), msgspec.structs.replace(run, batches=shared), None))
    result = next(result for result in results if result.name == "gpu_quiet")
    assert result.status is FAILED
    assert result.detail == "GPU 0: process 4242 (python3) was on it beside the serve in p8192-c2"
    assert result.cells == ["p8192-c2"]


def test_a_gpu_that_was_slowed_down_after_a_batch_fails(world: Any) -> None:
    hot = [gpu(gpu=1, slowdowns=["hardware slowdown", "hardware thermal slowdown"])]
    result = world.check("gpu_quiet", batch={"gpus_after": hot})
    cells = "p2048-c1, p2048-c2, p8192-c1, p8192-c2"
    assert result.status is FAILED
    assert result.detail == f"GPU 1: hardware slowdown after {cells}; GPU 1: hardware thermal slowdown after {cells}"
    assert ", ".join(result.cells) == cells


def test_many_disturbances_of_the_gpu_are_counted(world: Any) -> None:
    crowd = [gpu(foreign=dict.fromkeys(range(10, 16), ""))]
    result = world.check("gpu_quiet", batch={"gpus_after": crowd})
    assert "process 13 was on it" in result.detail
    assert result.detail.endswith("; and 2 more")


def test_a_clock_at_the_power_limit_is_said_and_fails_nothing(world: Any) -> None:
    result = world.check("gpu_quiet", batch={"gpus_after": [gpu(power_capped=True)]})
    assert result.status is OK
    assert result.detail.endswith("; at the power limit after 12 of 12 batches, which is normal at full load")


def test_a_slowdown_of_a_gpu_that_may_not_be_the_serves_is_unverified(world: Any) -> None:
    hot = [gpu(gpu=3, foreign=None, slowdowns=["hardware thermal slowdown"])]
    result = world.check("gpu_quiet", batch={"gpus_before": [], "gpus_after": hot})
    assert result.status is UNVERIFIED
    assert result.detail.startswith("GPU 3: hardware thermal slowdown after p2048-c1, ")
    assert result.detail.endswith("; it cannot be told whether the serve was on it")


@pytest.mark.parametrize(
    ("untold", "part"),
    [
        ({"foreign": None}, "GPU 0: not slowed down, whose processes are there cannot be told"),
        ({"slowdowns": None}, "GPU 0: NVML does not tell whether it was slowed down, nobody else computed there"),
    ],
)
def test_what_is_not_known_of_the_gpu_is_not_called_quiet(world: Any, untold: dict[str, Any], part: str) -> None:
    states = [gpu(**untold)]
    result = world.check("gpu_quiet", batch={"gpus_before": states, "gpus_after": states})
    assert result.status is OK
    assert result.detail.startswith(part)


@pytest.mark.parametrize("states", [[], [gpu(foreign=None, slowdowns=None)]])
def test_gpus_of_which_nothing_is_known_are_not_applicable(world: Any, states: list[Any]) -> None:
    result = world.check("gpu_quiet", batch={"gpus_before": states, "gpus_after": states})
    assert result.status is NOT_APPLICABLE


@pytest.mark.parametrize(("loud", "status"), [(1, OK), (4, FAILED)])
def test_a_stray_thought_is_forgiven_where_no_modes_are_compared(world: Any, loud: int, status: CheckStatus) -> None:
    gate = world.gate()
    run = world.run(gate)
    rows = [
        msgspec.structs.replace(row, result=msgspec.structs.replace(row.result, reasoning="Hm."))
        for row in run.requests[:loud]
    ]
    changed = msgspec.structs.replace(run, requests=[*rows, *run.requests[loud:]])
    found = mode_effective(gather(gate, changed, None))
    assert found.status is status, found.detail
