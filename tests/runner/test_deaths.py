"""A serve that dies in the last batch: nobody comes after it to find out, so its failed requests must."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, Cell, Fingerprint, Phase, PlannedRequest, RequestResult, RunData, Verdict
from ds4bench.errors import TargetDiedError, TargetError
from ds4bench.gate_runner import GateRunner
from ds4bench.report.progress import SilentProgress
from ds4bench.spec.load import EffectiveGate, load_gate
from ds4bench.store import runs
from ds4bench.targets.base import Endpoint, Report
from ds4bench.targets.dialect import dialect_of
from ds4bench.verdicts.decide import decide
from ds4bench.workloads.base import Batch, one_request
from tests.records import run_manifest
from tests.serving import running

GATES = Path(__file__).parents[2] / "gates"
LAST_WORDS = "the engine ended with exit code 1; its last words: CUDA error: an illegal memory access"


class DyingServe:
    """Answers every request as ``ending`` says. Its process is seen to be gone ``lingers`` looks later."""

    name, pid = "dying", 4_194_304

    def __init__(self, ending: str, *, dies: bool = True, lingers: int = 0, healthy: bool = True) -> None:
        self.ending, self.dies, self.lingers, self.healthy = ending, dies, lingers, healthy
        self.asked = False

    def app(self) -> Starlette:
        health = lambda _: Response(status_code=200 if self.healthy or not self.asked else 500)  # noqa: E731
        return Starlette(routes=[Route("/health", health), Route("/v1/chat/completions", self.chat, methods=["POST"])])

    async def chat(self, request: Request) -> Response:
        self.asked = True
        if self.ending.startswith("http_"):
            return JSONResponse({"error": {"message": "EngineCore died"}}, status_code=int(self.ending[5:]))
        return StreamingResponse(self.stream(), media_type="text/event-stream")

    async def stream(self) -> AsyncIterator[bytes]:
        yield _event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
        if self.ending == "stream_error":
            yield _event({"error": {"message": "EngineCore died"}})
        else:
            finish = {"index": 0, "delta": {}, "finish_reason": self.ending}
            yield _event({"choices": [finish], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})
        yield b"data: [DONE]\n\n"

    async def start(self, report: Report) -> Endpoint:
        raise NotImplementedError

    async def stop(self) -> None:
        return None

    def alive(self) -> bool:
        if not (self.asked and self.dies):
            return True
        self.lingers -= 1
        return self.lingers >= 0

    def death_note(self) -> str | None:
        return LAST_WORDS if self.asked and self.dies and self.lingers < 0 else None


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({"model": "m", **value}).encode() + b"\n\n"


class RestartedServe(DyingServe):
    """Answers everything; after its first answer its counters begin anew, as those of another process at the address do."""

    def __init__(self) -> None:
        super().__init__("stop", dies=False)

    def app(self) -> Starlette:
        app = super().app()
        app.router.routes.append(Route("/metrics", self.metrics))
        return app

    async def metrics(self, _: Request) -> Response:
        counted = 3 if self.asked else 700
        return Response(f"# TYPE vllm:prompt_tokens counter\nvllm:prompt_tokens_total {counted}\n")


class Asks:
    """One request a batch. ``unprepared``: what building its prompts ends with."""

    def __init__(self, unprepared: TargetError | None = None) -> None:
        self.unprepared = unprepared

    async def prepare(self, endpoint: Endpoint, control: ControlClient) -> None:
        if self.unprepared is not None:
            raise self.unprepared

    async def batch(self, cell: Cell, repeat: int, attempt: int, phase: Phase, control: ControlClient) -> Batch:
        body = {"model": "m", "messages": [], "stream": True}
        planned = PlannedRequest(cell.id, 0, "/v1/chat/completions", body, {})
        return Batch([one_request(planned)] if phase == "measure" else [])

    def read_answer(self, planned: PlannedRequest, result: RequestResult) -> Answer | None:
        return None


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EffectiveGate]:
    """One batch in all."""
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    shape = ["matrix.prompt_tokens=[64]", "matrix.concurrency=[1]"]
    yield load_gate("random", profile="smoke", repeats=1, directory=GATES, overrides=shape)


async def measured(gate: EffectiveGate, serve: DyingServe, unprepared: TargetError | None = None) -> RunData:
    with running(serve.app()) as url, runs.RunWriter.create(run_manifest(gate)) as writer:
        endpoint = Endpoint(url, "m", dialect_of("vllm"), Fingerprint(engine="vllm", model="m"))
        try:
            await GateRunner(gate, serve, endpoint, Asks(unprepared), writer, SilentProgress(), probe_ms=None).run(None)
        except TargetDiedError as error:
            writer.record_death(str(error))
    return runs.load_run("r1")


@pytest.mark.parametrize("ending", ["http_500", "http_503", "stream_error", "abort", "error"])
@pytest.mark.parametrize("lingers", [0, 2])
async def test_a_serve_that_dies_in_the_last_batch_is_recorded_with_its_last_words(
    gate: EffectiveGate, ending: str, lingers: int
) -> None:
    run = await measured(gate, DyingServe(ending, lingers=lingers))
    assert run.died == LAST_WORDS
    assert run.batches == []  # it does not count; a resumed run measures it again
    [row] = run.requests
    assert not row.result.ok


async def test_a_serve_whose_health_is_gone_is_dead_though_its_process_lives(gate: EffectiveGate) -> None:
    run = await measured(gate, DyingServe("http_500", dies=False, healthy=False))
    assert run.died == "the serve no longer answers /health"


@pytest.mark.parametrize("ending", ["http_500", "http_400", "content_filter"])
async def test_a_serve_that_only_failed_a_request_lives_and_its_batch_is_kept(gate: EffectiveGate, ending: str) -> None:
    run = await measured(gate, DyingServe(ending, dies=False))
    assert run.died is None
    assert len(run.batches) == 1
    assert [row.result.ok for row in run.requests] == [False]


async def test_a_serve_whose_counters_go_backwards_has_died_and_what_was_sent_is_kept(gate: EffectiveGate) -> None:
    run = await measured(gate, RestartedServe())
    assert run.died == "the counter prompt_tokens went backwards by 697: the serve restarted during the batch"
    assert run.batches == []
    assert [row.result.ok for row in run.requests] == [True]
    verdict = decide(gate, run, None)
    assert verdict.verdict is Verdict.INVALID
    assert "went backwards" in verdict.sentence


async def test_a_serve_that_is_gone_before_its_first_prompt_is_built_has_died(gate: EffectiveGate) -> None:
    gone = DyingServe("stop")
    gone.asked = True
    run = await measured(gate, gone, TargetError("/tokenize cannot be reached"))
    assert run.died == LAST_WORDS


async def test_a_serve_that_lives_and_cannot_be_asked_for_prompts_is_a_usage_error(gate: EffectiveGate) -> None:
    with pytest.raises(TargetError, match="no /tokenize") as caught:
        await measured(gate, DyingServe("stop", dies=False), TargetError("no /tokenize"))
    assert not isinstance(caught.value, TargetDiedError)
