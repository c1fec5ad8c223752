"""Conversations, closed loops, resuming item by item and stopping early, against a real serve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ds4bench import gate_runner
from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Phase, PlannedRequest, RequestResult, RunData, Verdict
from ds4bench.errors import TargetDiedError
from ds4bench.gate_runner import GateRunner
from ds4bench.gpu_state import GpuState
from ds4bench.report.progress import SilentProgress
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.spec.workloads import WORKLOADS
from ds4bench.store import runs
from ds4bench.targets.attach import AttachTarget
from ds4bench.targets.base import Endpoint
from ds4bench.verdicts.decide import decide
from ds4bench.workloads.base import Batch, Script, Send
from tests.records import GPU, run_manifest
from tests.serving import launched

GATES = Path(__file__).parents[2] / "gates"
pytestmark = pytest.mark.integration


class Talks:
    """Two-turn conversations: the second request holds the first reply. ``break_at`` raises inside one of them."""

    def __init__(self, run_id: str, model: str, break_at: int | None = None, max_tokens: int = 3) -> None:
        self.run_id, self.model, self.break_at, self.max_tokens = run_id, model, break_at, max_tokens
        self.started: list[str] = []
        self.on_disk: list[int] = []

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        return None

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        if phase == "warmup":
            return Batch([])
        return Batch([Script(f"{cell.id}-{i}", self.talk(cell, i)) for i in range(4)], slots=cell.concurrency)

    def talk(self, cell: Cell, number: int) -> Callable[[Send], Any]:
        async def run(send: Send) -> Answer | None:
            self.started.append(f"{cell.id}-{number}")
            messages = [{"role": "user", "content": f"Count {number}."}]
            first = await send(self.planned(cell, 10 * number, messages))
            rows = runs.load_run(self.run_id).requests
            self.on_disk.append(sum(row.script == number and row.cell == cell.id for row in rows))
            if number == self.break_at:
                raise RuntimeError("the client was killed here")
            messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": "Again."}]
            second = await send(self.planned(cell, 10 * number + 1, messages))
            grown = (second.prompt_tokens or 0) > (first.prompt_tokens or 0)
            return Answer(scores={"grown": float(grown)}, detail={"texts": [first.content, second.content]})

        return run

    def planned(self, cell: Cell, index: int, messages: list[dict[str, str]]) -> PlannedRequest:
        body = {
            "model": self.model, "messages": list(messages), "max_tokens": self.max_tokens, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        return PlannedRequest(cell.id, index, "/v1/chat/completions", body, {})

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        return None


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EffectiveGate:
    """A gate whose scripts are independent items, and a state folder of its own."""
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    monkeypatch.setitem(WORKLOADS, "random_lengths", replace(WORKLOADS["random_lengths"], independent=True))
    return load_gate(
        "random", profile="smoke", repeats=1, directory=GATES,
        overrides=["matrix.prompt_tokens=[64, 65]", "matrix.concurrency=[2]"],
    )  # fmt: skip


async def measure(
    serve: str,
    gate: EffectiveGate,
    break_at: int | None = None,
    decided: Callable[[], str | None] | None = None,
    max_tokens: int = 3,
    gpu_states: Callable[[], list[GpuState]] | None = None,
) -> Talks:
    target = AttachTarget(serve, None, None, hardware={})
    endpoint = await target.start(lambda _: None)
    folder = runs.run_folder("r1")
    done: RunData | None = runs.load_run("r1") if (folder / runs.MANIFEST).exists() else None
    writer = runs.RunWriter.reopen("r1") if done else runs.RunWriter.create(run_manifest(gate))
    talks = Talks("r1", endpoint.model, break_at, max_tokens)
    with writer:
        runner = GateRunner(
            gate, target, endpoint, talks, writer, SilentProgress(), probe_ms=None, gpu_states=gpu_states,
            decided=decided,
        )  # fmt: skip
        try:
            await runner.run(done)
        except TargetDiedError as error:
            writer.record_death(str(error))
        finally:
            await target.stop()
    return talks


async def test_gpus_are_looked_at_before_the_first_request_of_a_batch_and_after_its_last(
    serve: str, gate: EffectiveGate
) -> None:
    looks: list[int] = []

    def look() -> list[GpuState]:
        looks.append(len(runs.load_run("r1").requests))
        return [msgspec.structs.replace(GPU, memory_mib=len(looks))]

    await measure(serve, gate, gpu_states=look)
    assert looks == [0, 8, 8, 16]  # two batches of four scripts with two requests each
    rows = runs.load_run("r1").batches
    kept = [[state.memory_mib for state in (*row.gpus_before, *row.gpus_after)] for row in rows]
    assert kept == [[1, 2], [3, 4]]


async def test_a_conversation_is_kept_turn_by_turn_with_what_it_was_worth(serve: str, gate: EffectiveGate) -> None:
    talks = await measure(serve, gate)
    run = runs.load_run("r1")
    assert talks.on_disk == [1] * 8  # the first turn was in the folder before the second was built
    assert [(s.cell, s.key, s.requests) for s in sorted(run.scripts, key=lambda s: s.key)] == [
        (cell, f"{cell}-{i}", 2) for cell in ("p64-c2", "p65-c2") for i in range(4)
    ]
    assert all(script.answer and script.answer.scores == {"grown": 1.0} for script in run.scripts)
    assert all(len(script.answer.detail["texts"]) == 2 for script in run.scripts if script.answer)
    assert sorted((row.script, row.turn) for row in run.requests if row.cell == "p64-c2") == [
        (script, turn) for script in range(4) for turn in range(2)
    ]
    assert [batch.requests for batch in run.batches] == [8, 8]
    assert all(batch.delivered_concurrency <= 2 for batch in run.batches)
    assert all(batch.steady_end_s for batch in run.batches)


async def test_independent_scripts_that_ended_are_not_run_again(serve: str, gate: EffectiveGate) -> None:
    with pytest.raises(RuntimeError, match="killed here"):
        await measure(serve, gate, break_at=3)
    ended = {script.key for script in runs.load_run("r1").scripts}
    assert ended
    assert "p64-c2-3" not in ended
    talks = await measure(serve, gate)
    run = runs.load_run("r1")
    assert not ended & set(talks.started)
    assert sorted(script.key for script in run.scripts) == [f"p{p}-c2-{i}" for p in (64, 65) for i in range(4)]
    assert {row.attempt for row in [*run.requests, *run.scripts, *run.batches]} == {0}
    assert [batch.requests for batch in run.batches] == [8, 8]


async def test_a_decided_gate_ends_the_run_between_two_batches_and_says_why(serve: str, gate: EffectiveGate) -> None:
    await measure(serve, gate, decided=lambda: "nothing can change it")
    run = runs.load_run("r1")
    assert run.stopped == "nothing can change it"
    assert {batch.cell for batch in run.batches} == {"p64-c2"}
    assert (await measure(serve, gate)).started == []  # nothing is left of a stopped run
    assert runs.load_run("r1").stopped == "nothing can change it"


async def test_a_serve_that_hangs_ends_the_run_at_the_first_deadline_with_everything_kept(
    gate: EffectiveGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate_runner, "_PROBE_LEAST_S", 1.0)
    spec = gate.spec.model_copy(update={"request": gate.spec.request.model_copy(update={"deadline_s": 3.0})})
    with launched(tmp_path, "--num-blocks=16", "--threads=1", "--fault=hang-at:c=2") as url:
        await measure(url, replace(gate, spec=spec), max_tokens=40)  # so long that both are surely in flight
    run = runs.load_run("r1")
    assert run.died is not None and "unresponsive" in run.died and "/health answers" in run.died
    assert [row.result.error for row in run.requests] == [
        "deadline",
        "deadline",
    ]  # what was in flight, nothing behind it
    assert run.batches == []
    assert decide(gate, run, None).verdict is Verdict.INVALID
