"""A serve that hangs under load in the middle of a run: what ends, what is kept, what a resumed run sends again."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from ds4bench import gate_runner
from ds4bench.commands.gate import GateOptions, run_gate
from ds4bench.core import RunData, Verdict
from ds4bench.store import runs
from ds4bench.verdicts.exit_codes import EXIT
from tests.serving import running

ROOT = Path(__file__).parents[2]
DEADLINE_S = 3.0
SLOTS, ANSWERED = 4, 3
"""Requests in flight when the serve hangs, and how many of that batch it has answered before."""
SIZE = {"mtbench-c1": 2, "mtbench-c4": 8}
"""Requests of a batch."""
GATE = f"""
name: small
title: Small MT-bench
purpose: the mt-bench gate in small, for tests
workload: mt_bench
seed: 5
request: {{max_tokens: 4, ignore_eos: true, thinking: false, deadline_s: {DEADLINE_S:g}}}
matrix: {{concurrency: [1, 4]}}
options: {{data: mt-bench-ds4, requests_per_slot: 2, least_requests: 2}}
warmup: {{requests_per_cell: 1}}
repeats: {{count: 3}}
rules:
  - {{name: failures, kind: zero_failures}}
"""


class HangingServe:
    """Answers ``answers`` streams with four tokens each. All after them say one and then nothing, and nobody else gets a
    token either, though /health answers: a scheduler that waits for ever."""

    def __init__(self) -> None:
        self.answers: int | None = None
        self.hung_at: float | None = None
        self.asked = 0

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", lambda _: Response()),
                Route("/v1/models", lambda _: JSONResponse({"data": [{"id": "m", "owned_by": "vllm"}]})),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ]
        )

    async def chat(self, request: Request) -> Response:
        if (await request.json()).get("stream"):
            self.asked += 1
            hangs = self.answers is not None and self.asked > self.answers
            return StreamingResponse(self.stream(hangs), media_type="text/event-stream")
        await self.while_hung()
        usage = {"prompt_tokens": 3, "completion_tokens": 1}
        return JSONResponse({"choices": [{"message": {"content": "a"}}], "usage": usage})

    async def stream(self, hangs: bool) -> AsyncIterator[bytes]:
        for made in range(1, 5):
            await asyncio.sleep(0.01)
            choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": "length" if made == 4 else None}
            usage = {"prompt_tokens": 3, "completion_tokens": made}
            yield b"data: " + json.dumps({"model": "m", "choices": [choice], "usage": usage}).encode() + b"\n\n"
            if hangs:
                self.hung_at = self.hung_at or time.monotonic()
                await self.while_hung()
        yield b"data: [DONE]\n\n"

    async def while_hung(self) -> None:
        while self.hung_at is not None:  # noqa: ASYNC110 - the test ends it, in another thread
            await asyncio.sleep(0.02)


@pytest.fixture
def scripted() -> Iterator[tuple[HangingServe, str]]:
    """A serve, and its base URL."""
    hanging = HangingServe()
    with running(hanging.app()) as url:
        yield hanging, url
        hanging.hung_at = None  # lets the streams end, else the server waits for them


Small = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def run_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], scripted: tuple[Any, str]
) -> Small:
    """Runs the small gate on the serve, or resumes a run of it: (exit code, JSON document)."""
    monkeypatch.setenv("DS4BENCH_HOME", str(ROOT))
    monkeypatch.setenv("DS4BENCH_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(gate_runner, "_PROBE_LEAST_S", 0.0)  # a quarter of the deadline is enough here
    (tmp_path / "small.yaml").write_text(GATE)

    def run(resume: str | None = None) -> tuple[int, dict[str, Any]]:
        options = GateOptions(
            gate=str(tmp_path / "small.yaml"), target="attach", url=scripted[1], model=None, profile=None,
            baseline="none", overrides=(), repeats=None, resume=resume, serve_args=(), beside=None, json=True, quiet=True,
        )  # fmt: skip
        code = run_gate(options)
        return code, json.loads(capsys.readouterr().out)

    return run


def server_alive(document: dict[str, Any]) -> dict[str, Any]:
    return next(check for check in document["verdict"]["checks"] if check["name"] == "server_alive")


def batches(run: RunData) -> list[tuple[str, int, int]]:
    return [(row.cell, row.repeat, row.attempt) for row in run.batches if row.phase == "measure"]


def answered(run: RunData, cell: str, repeat: int, attempt: int) -> list[bool]:
    """Whether each kept request of a batch was answered, in the order of the gate's questions."""
    rows = [r for r in run.requests if (r.cell, r.repeat, r.attempt, r.phase) == (cell, repeat, attempt, "measure")]
    return [row.result.ok for row in sorted(rows, key=lambda row: row.index)]


def test_a_hang_after_finished_batches_ends_at_its_deadline_and_resume_repeats_none_of_them(
    run_small: Small, scripted: tuple[HangingServe, str]
) -> None:
    serve, _ = scripted
    # the first repeat and its two warm-ups, the second one's cell at c=1, and a part of its cell at c=4
    serve.answers = 1 + 2 + 1 + 8 + 2 + ANSWERED
    code, document = run_small()
    assert serve.hung_at is not None
    took = time.monotonic() - serve.hung_at
    hung = runs.load_run(document["run"])

    # it stopped with the first deadline and sent nothing more: the deadlines of all that was left come to 18 s
    assert took < 3 * DEADLINE_S
    assert serve.asked == serve.answers + SLOTS
    assert (code, document["verdict"]["verdict"]) == (EXIT[Verdict.INVALID], "INVALID")
    said = server_alive(document)["detail"]
    assert "unresponsive" in said
    assert "/health answers" in said
    assert "3 of 6 batches measured; resume with --resume" in said

    # the batches before it and what was answered of its own are kept, and the requests that hung are named
    whole = [("mtbench-c1", 0, 0), ("mtbench-c4", 0, 0), ("mtbench-c1", 1, 0)]
    assert batches(hung) == whole
    assert all(answered(hung, *key) == [True] * SIZE[key[0]] for key in whole)
    stuck = [row for row in hung.requests if row.result.error == "deadline"]
    assert [(row.cell, row.repeat) for row in stuck] == [("mtbench-c4", 1)] * SLOTS
    assert Counter(answered(hung, "mtbench-c4", 1, 0)) == {True: ANSWERED, False: SLOTS}

    # the serve was started anew: only what was not whole is sent, beside the warm-ups of the new session
    serve.hung_at, serve.answers, serve.asked = None, None, 0
    _, document = run_small(resume=document["run"])
    resumed = runs.load_run(document["run"])
    assert serve.asked == 1 + 8 + 1 + 2 + 8
    assert batches(resumed) == [*whole, ("mtbench-c4", 1, 1), ("mtbench-c1", 2, 0), ("mtbench-c4", 2, 0)]
    assert resumed.requests[: len(hung.requests)] == hung.requests
    assert resumed.batches[: len(hung.batches)] == hung.batches
    assert server_alive(document)["status"] == "ok"
