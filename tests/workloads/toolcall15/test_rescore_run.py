"""`ds4bench rescore` of a stored run: its checks are those of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ds4bench.commands.rescore import rescore_run
from ds4bench.core import Answer, CheckResult, CheckStatus, RequestResult, RequestRow, RunData, ScriptRow
from ds4bench.spec.load import effective_from_dict, load_gate
from ds4bench.store.runs import RunWriter, load_run
from ds4bench.verdicts.decide import decide
from ds4bench.workloads.toolcall15.reply import Reply
from ds4bench.workloads.toolcall15.trace import Trace
from tests.records import batch_row, request_row, run_manifest

GATES = Path(__file__).parents[3] / "gates"
CALL = ("get_weather", {"location": "Berlin"})
Play = Callable[..., Trace]


def stored(folder: Path, play: Play, first_thought: Callable[[str, int], str]) -> RunData:
    """Ten conversations in each thinking mode; ``first_thought(mode, conversation)`` is the first reply's reasoning."""
    gate = load_gate(
        "toolcall-15", overrides=["matrix.mode=[think-high, think-max]", "repeats.count=1"], directory=GATES
    )
    trace = play("TC-01", [CALL], Reply(content="8C", reasoning="Good."))
    with RunWriter.create(run_manifest(gate, run_id=str(folder / "run"))) as writer:
        for cell in gate.spec.matrix.cells():
            for number in range(10):
                for turn, reasoning in enumerate((first_thought(cell.id, number), "Good.")):
                    writer.append_request(reply_row(cell.id, number, turn, reasoning))
                held = msgspec.structs.replace(trace, mode=cell.id)
                answer = Answer(scores={"v1-jasl": 1.0}, detail={"trace": msgspec.to_builtins(held)})
                writer.append_script(
                    ScriptRow(
                        cell=cell.id, repeat=0, attempt=0, phase="measure", script=number, key=f"TC-{number}",
                        requests=2, answer=answer,
                    )
                )  # fmt: skip
            writer.append_batch(batch_row(cell.id, requests=20))
    return load_run(str(folder / "run"))


def reply_row(mode: str, number: int, turn: int, reasoning: str) -> RequestRow:
    result = RequestResult(ok=True, content="Hi", reasoning=reasoning, model="m", prompt_tokens=100)
    expect = {"scenario": f"TC-{number}", "thinking": None if turn else True, "effort": mode.removeprefix("think-")}
    return request_row(mode, index=2 * number + turn, script=number, turn=turn, result=result, expect=expect)


def rescored(run: RunData, output: pytest.CaptureFixture[bytes]) -> dict[str, CheckResult]:
    rescore_run(run.manifest.run_id, None, as_json=True)
    document = msgspec.json.decode(output.readouterr().out)
    return {check.name: check for check in msgspec.convert(document["checks"], list[CheckResult])}


@pytest.mark.parametrize(
    ("thinks", "status"),
    [
        (lambda mode, number: True, CheckStatus.OK),
        (lambda mode, number: mode == "think-high", CheckStatus.FAILED),  # one of the two modes never thinks
        (lambda mode, number: number >= 2, CheckStatus.OK),
        (lambda mode, number: number >= 3, CheckStatus.FAILED),
        (lambda mode, number: False, CheckStatus.FAILED),  # the second replies do, and they do not count
    ],
)
def test_a_run_and_its_rescore_say_the_same_of_the_modes(
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    play: Play,
    thinks: Callable[[str, int], bool],
    status: CheckStatus,
) -> None:
    run = stored(tmp_path, play, lambda mode, number: "Hm." if thinks(mode, number) else "")
    checks = rescored(run, capsysbinary)
    verdict = decide(effective_from_dict(run.manifest.effective_gate), run, None)
    assert checks["mode_effective"].status is status
    assert list(checks.values()) == [check for check in verdict.checks if check.name in checks]


def test_a_run_of_a_gate_that_is_not_known_any_more_is_scored_and_its_modes_are_not_verified(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], play: Play
) -> None:
    run = stored(tmp_path, play, lambda mode, number: "Hm.")
    file = tmp_path / "run" / "run.json"
    file.write_text(file.read_text().replace("max_cut_share", "an_older_name"))
    assert {check.status for check in rescored(run, capsysbinary).values()} == {CheckStatus.UNVERIFIED}
