"""The rules of toolcall-15 as shipped: a serve whose tool calls do not arrive, or leak into the text, must not pass them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ds4bench.core import CheckStatus, Fingerprint, RequestResult, RunData, ScriptRow, Verdict
from ds4bench.run_session import prepare
from ds4bench.spec.load import load_gate
from ds4bench.verdicts.checks import CHECKS
from ds4bench.verdicts.evidence import Evidence, gather
from ds4bench.verdicts.rules import judge
from ds4bench.workloads.registry import make_workload
from ds4bench.workloads.toolcall15.gate import ToolCall15
from ds4bench.workloads.toolcall15.reply import Reply, ReplyCall
from ds4bench.workloads.toolcall15.trace import Trace
from tests.records import batch_row, request_row, run_manifest

CALLED = 5
"""Conversations of 14 in which the trained ds4-nano called a tool (measured, twice the same)."""
CUT = 1
"""Of the 14 that had a reply cut at ``max_tokens``."""

Play = Callable[..., Trace]


GIVEN = '{"location": "Berlin"}'
MARKUP = "<｜DSML｜"
"""What the fault ``dsml-split-leak`` puts into the text before a call."""


def call(arguments: str, text: str = "") -> Reply:
    made = [ReplyCall("c1", "set_weather", arguments)]
    return Reply(content=text, calls=made, finish_reason="tool_calls")


def evidence(
    play: Play, arguments: str | None, called: int, cut: int = 0, leaked: int = 0, profile: str = "smoke"
) -> Evidence:
    """14 conversations, in the profile full 21: ``called`` of them begin with a call of these arguments (None: without a
    call), ``leaked`` of those with markup before it, ``cut`` are cut.
    """
    prepared = prepare(load_gate("toolcall-15", profile=profile, repeats=1), None)
    workload = make_workload(prepared.gate.spec, "r", prepared.data)
    assert isinstance(workload, ToolCall15)
    scripts, requests, batches = [], [], []
    for cell in prepared.gate.spec.matrix.cells():
        for item in range(7):
            text = MARKUP if len(scripts) < leaked else ""
            first: Any = "Hello!" if arguments is None or len(scripts) >= called else call(arguments, text)
            answer = workload._answer(play("TC-01", first, "8 degrees."))
            finish = "length" if len(scripts) < cut else "stop"
            requests.append(
                request_row(cell.id, index=item, script=item, result=RequestResult(ok=True, finish_reason=finish))
            )
            scripts.append(
                ScriptRow(cell=cell.id, repeat=0, attempt=0, script=item, phase="measure", key=f"TC-{item}",
                          requests=1, answer=answer)
            )  # fmt: skip
        batches.append(batch_row(cell.id, requests=7))
    manifest = run_manifest(prepared.gate, fingerprint=Fingerprint(engine="e", model="m", weights="trained"))
    return gather(prepared.gate, RunData(manifest=manifest, requests=requests, batches=batches, scripts=scripts), None)


def failed(found: Evidence) -> list[str]:
    return [result.rule for result in judge(found) if result.verdict is Verdict.FAIL]


@pytest.mark.parametrize("arguments", [None, "", "{}", '{"location": "Ber'], ids=["none", "empty", "no-fields", "cut"])
def test_a_serve_whose_calls_do_not_arrive_or_come_garbled_fails(play: Play, arguments: str | None) -> None:
    assert failed(evidence(play, arguments, CALLED)) == ["called"]


@pytest.mark.parametrize("profile", ["smoke", "full"])
def test_markup_that_leaks_in_every_call_fails_however_seldom_the_model_calls(play: Play, profile: str) -> None:
    for called in (CALLED, CALLED - 3):
        found = judge(evidence(play, GIVEN, called, leaked=called, profile=profile))
        clean = next(result for result in found if result.rule == "clean")
        assert clean.verdict is Verdict.FAIL
        total = 14 if profile == "smoke" else 21
        assert f"clean 0.0 % over {called} answers" in clean.sentence
        assert f"counted are those of {total} with tried" in clean.sentence


def test_one_call_that_the_very_small_model_garbles_is_let_pass_and_two_are_not(play: Play) -> None:
    assert failed(evidence(play, GIVEN, CALLED, leaked=1)) == []
    assert failed(evidence(play, GIVEN, CALLED, leaked=2)) == ["clean"]


def test_where_nothing_could_leak_clean_says_nothing(play: Play) -> None:
    found = {result.rule: result for result in judge(evidence(play, None, 0))}
    assert found["clean"].verdict is Verdict.INCONCLUSIVE
    assert "none of 14 answers counts (tried is 0 in all)" in found["clean"].sentence


def test_a_model_that_calls_as_seldom_as_the_shipped_one_or_seldomer_passes(play: Play) -> None:
    for called in (CALLED, CALLED - 3):
        assert failed(evidence(play, '{"location": "Berlin"}', called)) == []


def test_replies_that_are_all_cut_are_no_measurement_and_a_few_more_than_usual_are(play: Play) -> None:
    found = {cut: CHECKS["replies_not_cut"](evidence(play, None, 0, cut)).status for cut in (CUT, CUT + 4, 14)}
    assert found == {CUT: CheckStatus.OK, CUT + 4: CheckStatus.OK, 14: CheckStatus.FAILED}
