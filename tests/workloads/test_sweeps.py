"""MT-bench and random lengths: what they send, in which order, how many."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ds4bench.client.control import ControlClient
from ds4bench.core import PlannedRequest
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.load import load_gate
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Batch, Workload
from ds4bench.workloads.registry import make_workload, read_data

ROOT = Path(__file__).parents[2]
MakeServe = Callable[..., Any]


def spec(name: str, *overrides: str, profile: str = "smoke") -> GateSpec:
    return load_gate(name, profile=profile, overrides=overrides, directory=ROOT / "gates").spec


@contextlib.asynccontextmanager
async def ready(
    gate: GateSpec, endpoint: Endpoint, run: str = "run-1"
) -> AsyncIterator[tuple[Workload, ControlClient]]:
    control = ControlClient(endpoint.base_url)
    try:
        workload = make_workload(gate, run, read_data(gate, None))
        await workload.prepare(endpoint, control)
        yield workload, control
    finally:
        await control.close()


def planned(batch: Batch) -> list[PlannedRequest]:
    assert all(script.first is not None for script in batch.scripts)
    return [script.first for script in batch.scripts if script.first is not None]


async def test_mt_bench_sends_ten_requests_a_slot_and_at_least_all_questions_once(make_serve: MakeServe) -> None:
    gate = spec("mt-bench", "options.data=mt-bench-ds4", profile="full")
    async with ready(gate, make_serve().endpoint()) as (workload, control):
        sizes = {}
        for cell in workload._spec.matrix.cells():
            batch = await workload.batch(cell, 0, 0, "measure", control)
            sizes[cell.id] = len(batch.scripts)
            assert batch.slots == cell.concurrency
            asked = Counter(p.expect["question_id"] for p in planned(batch))
            assert max(asked.values()) - min(asked.values()) <= (1 if len(asked) == 80 else 0)
            warmup = await workload.batch(cell, 0, 0, "warmup", control)
            assert len(warmup.scripts) == cell.concurrency
    assert sizes == {f"mtbench-c{c}": max(80, 10 * c) for c in (1, 2, 4, 8, 16, 24)}


async def test_mt_bench_asks_the_same_in_every_run_and_salts_only_the_cache(make_serve: MakeServe) -> None:
    serve, gate, texts, salts = make_serve(), spec("mt-bench"), [], []
    for run in ("run-1", "run-2"):
        async with ready(gate, serve.endpoint(), run) as (workload, control):
            cell = workload._spec.matrix.cells()[0]
            for repeat in range(2):
                requests = planned(await workload.batch(cell, repeat, 0, "measure", control))
                texts.append([p.body["messages"] for p in requests])
                salts += [p.body["cache_salt"] for p in requests]
    assert texts[0] == texts[2]
    assert texts[1] == texts[3]
    assert texts[0] != texts[1]
    assert len(set(salts)) == len(salts)


async def test_mt_bench_body_asks_for_what_the_gate_says(make_serve: MakeServe) -> None:
    async with ready(spec("mt-bench"), make_serve().endpoint("openai")) as (workload, control):
        request = planned(await workload.batch(workload._spec.matrix.cells()[0], 0, 0, "measure", control))[0]
    assert request.path == "/v1/chat/completions"
    assert (request.body["temperature"], request.body["max_tokens"]) == (1.0, 16)
    assert request.body["stream_options"] == {"include_usage": True}
    assert "cache_salt" not in request.body


@pytest.mark.parametrize("name", ["random", "prefill-sweep"])
async def test_random_prompts_have_their_length_and_share_no_beginning(make_serve: MakeServe, name: str) -> None:
    serve, begins = make_serve(), []
    async with ready(spec(name), serve.endpoint()) as (workload, control):
        for cell in workload._spec.matrix.cells():
            for repeat in range(2):
                batch = await workload.batch(cell, repeat, 0, "measure", control)
                assert batch.slots == cell.concurrency
                for request in planned(batch):
                    assert serve.count(request.body) == cell.params["prompt_tokens"]
                    assert request.body["ignore_eos"] is True
                    begins.append(request.body["prompt"][:16])
    assert len(set(begins)) == len(begins)


async def test_random_words_depend_on_the_seed_and_not_on_the_run(make_serve: MakeServe) -> None:
    serve, seen = make_serve(), []
    for run, seed in (("run-1", 1), ("run-2", 1), ("run-1", 2)):
        async with ready(spec("random", f"seed={seed}"), serve.endpoint(), run) as (workload, control):
            request = planned(await workload.batch(workload._spec.matrix.cells()[0], 0, 0, "measure", control))[0]
            seen.append(request.body["prompt"][17:200])
    assert seen[0] == seen[1] != seen[2]


async def test_every_slot_has_a_request(make_serve: MakeServe) -> None:
    gate = spec("random", "options.requests=2", "matrix.concurrency=[4]", "warmup.requests_per_cell=0")
    async with ready(gate, make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        assert len((await workload.batch(cell, 0, 0, "measure", control)).scripts) == 4
        assert (await workload.batch(cell, 0, 0, "warmup", control)).scripts == []


async def test_random_prompts_that_do_not_fit_the_serve_are_refused(make_serve: MakeServe) -> None:
    with pytest.raises(WorkloadError, match=r"needs 272 tokens.*271"):
        async with ready(spec("random"), make_serve().endpoint(max_model_len=271)):
            pass
