"""The long-context workload: exact lengths, salts, codes and what a reply is worth."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest

from ds4bench.client.control import ControlClient
from ds4bench.core import PlannedRequest, RequestResult
from ds4bench.errors import TargetError, WorkloadError
from ds4bench.spec.gate import GateSpec, parse_gate
from ds4bench.targets.base import Endpoint
from ds4bench.workloads.base import Workload
from ds4bench.workloads.registry import make_workload
from ds4bench.workloads.token_count import UsageCounter

MakeServe = Callable[..., Any]


def spec(*, tokens: list[int] | None = None, concurrency: list[int] | None = None, **request: Any) -> GateSpec:
    return parse_gate(
        {
            "name": "long-context",
            "title": "t",
            "purpose": "p",
            "workload": "long_context",
            "seed": 7,
            "request": {"max_tokens": 16, "deadline_s": 10.0, **request},
            "matrix": {"prompt_tokens": tokens or [2048], "concurrency": concurrency or [2]},
            "rules": [{"kind": "recall", "threshold": 0.9}],
        }
    )


@contextlib.asynccontextmanager
async def ready(
    gate: GateSpec, endpoint: Endpoint, run_id: str = "run-1"
) -> AsyncIterator[tuple[Workload, ControlClient]]:
    control = ControlClient(endpoint.base_url)
    workload = make_workload(gate, run_id)
    try:
        await workload.prepare(endpoint, control)
        yield workload, control
    finally:
        await control.close()


def text(planned: PlannedRequest) -> str:
    body = planned.body
    return str(body["messages"][0]["content"] if "messages" in body else body["prompt"])


def bodies(batch: list[PlannedRequest]) -> list[bytes]:
    return [msgspec.json.encode(planned.body) for planned in batch]


@pytest.mark.parametrize("endpoint", ["chat", "completions"])
@pytest.mark.parametrize("salt", [True, False])
async def test_prompts_have_exactly_the_tokens_asked_for(make_serve: MakeServe, endpoint: str, salt: bool) -> None:
    serve = make_serve()
    gate = spec(tokens=[700, 2048, 4047], endpoint=endpoint, salt=salt)
    async with ready(gate, serve.endpoint()) as (workload, control):
        for cell in workload._spec.matrix.cells():
            for planned in await workload.requests(cell, 0, 0, "measure", control):
                assert serve.count(planned.body) == cell.params["prompt_tokens"] == planned.expect["prompt_tokens"]
    assert serve.completed == []  # nothing was sent to the model to learn the length


async def test_the_longest_prompt_is_exact_in_few_calls(make_serve: MakeServe) -> None:
    serve = make_serve()
    async with ready(spec(tokens=[124_080], concurrency=[4]), serve.endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        before = len(serve.tokenized)
        batch = await workload.requests(cell, 0, 0, "measure", control)
        calls = len(serve.tokenized) - before
        assert [serve.count(planned.body) for planned in batch] == [124_080] * 4
    assert calls <= 3 * 4


@pytest.mark.parametrize("engine", ["vllm", "openai", "hosted-deepseek"])
async def test_without_tokenize_the_length_is_calibrated_well_within_one_percent(
    make_serve: MakeServe, engine: str
) -> None:
    serve = make_serve(tokenize=False)
    async with ready(spec(tokens=[4047, 62_080]), serve.endpoint(engine)) as (workload, control):
        asked = len(serve.completed)
        for cell in workload._spec.matrix.cells():
            for planned in await workload.requests(cell, 0, 0, "measure", control):
                assert serve.count(planned.body) == pytest.approx(cell.params["prompt_tokens"], rel=0.004)
        assert len(serve.completed) == asked  # the long prompts themselves are not sent before they are measured
    assert sum(serve.completed) < 62_080 / 2  # cheaper than half of one measured prompt


async def test_calibration_sends_nothing_longer_than_the_gate_itself(make_serve: MakeServe) -> None:
    serve = make_serve(tokenize=False)
    async with ready(spec(tokens=[4047]), serve.endpoint()):
        pass
    assert 0 < max(serve.completed) <= 4047


async def test_every_salted_prompt_of_a_run_begins_differently(make_serve: MakeServe) -> None:
    serve = make_serve()
    begins: list[str] = []
    salts: list[str] = []
    for run_id in ("run-1", "run-2"):
        async with ready(spec(), serve.endpoint(), run_id) as (workload, control):
            (cell,) = workload._spec.matrix.cells()
            for repeat, attempt, phase in ((0, 0, "warmup"), (0, 0, "measure"), (1, 0, "measure"), (1, 1, "measure")):
                for planned in await workload.requests(cell, repeat, attempt, phase, control):
                    begins.append(text(planned)[:16])
                    salts.append(planned.body["cache_salt"])
                    assert planned.expect["salt"] == planned.body["cache_salt"]
    assert len(begins) == 2 * (1 + 2 + 2 + 2)
    assert len(set(begins)) == len(set(salts)) == len(begins)


async def test_cells_of_the_same_length_share_no_beginning(make_serve: MakeServe) -> None:
    async with ready(spec(concurrency=[1, 2]), make_serve().endpoint()) as (workload, control):
        batches = [await workload.requests(cell, 0, 0, "measure", control) for cell in workload._spec.matrix.cells()]
    begins = [text(planned)[:16] for batch in batches for planned in batch]
    assert len(set(begins)) == 3


async def test_a_cache_salt_is_only_sent_to_serves_that_know_it(make_serve: MakeServe) -> None:
    async with ready(spec(), make_serve().endpoint("openai")) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        for planned in await workload.requests(cell, 0, 0, "measure", control):
            assert "cache_salt" not in planned.body
            assert text(planned).startswith(planned.expect["salt"])


async def test_without_salt_every_repeat_sends_the_same_bytes(make_serve: MakeServe) -> None:
    async with ready(spec(salt=False), make_serve().endpoint(), "run-1") as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        first = await workload.requests(cell, 0, 0, "measure", control)
        again = await workload.requests(cell, 2, 1, "measure", control)
    async with ready(spec(salt=False), make_serve().endpoint(), "run-2") as (workload, control):
        other_run = await workload.requests(cell, 0, 0, "measure", control)
    assert bodies(first) == bodies(again) == bodies(other_run)
    assert all("cache_salt" not in planned.body for planned in first)


async def test_the_same_run_builds_the_same_request_twice(make_serve: MakeServe) -> None:
    async with ready(spec(), make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        once = await workload.requests(cell, 1, 0, "measure", control)
        assert bodies(once) == bodies(await workload.requests(cell, 1, 0, "measure", control))


async def test_the_codes_lie_early_in_the_middle_and_late_and_nowhere_else(make_serve: MakeServe) -> None:
    async with ready(spec(tokens=[8192]), make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        for planned in await workload.requests(cell, 0, 0, "measure", control):
            prompt = text(planned)
            assert [prompt.count(code) for code in planned.expect["codes"]] == [1, 1, 1]
            places = [prompt.index(code) / len(prompt) for code in planned.expect["codes"]]
            assert places == pytest.approx([0.1, 0.5, 0.9], abs=0.03)


@pytest.mark.parametrize(("found", "recall"), [(0, 0.0), (1, 1 / 3), (2, 2 / 3), (3, 1.0)])
async def test_recall_is_the_share_of_the_codes_in_the_answer(make_serve: MakeServe, found: int, recall: float) -> None:
    async with ready(spec(), make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        planned = (await workload.requests(cell, 0, 0, "measure", control))[0]
    reply = "The codes are " + ", ".join(planned.expect["codes"][:found])
    answer = workload.read_answer(planned, RequestResult(ok=True, content=reply))
    assert answer is not None
    assert answer.scores == {"recall": pytest.approx(recall)}


async def test_a_code_inside_a_longer_number_is_not_found(make_serve: MakeServe) -> None:
    async with ready(spec(), make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        planned = (await workload.requests(cell, 0, 0, "measure", control))[0]
    glued = "1".join(planned.expect["codes"])
    answer = workload.read_answer(planned, RequestResult(ok=True, content=glued))
    assert answer is not None
    assert answer.scores == {"recall": 0.0}


async def test_a_failed_request_has_no_answer_to_read(make_serve: MakeServe) -> None:
    async with ready(spec(), make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        planned = (await workload.requests(cell, 0, 0, "measure", control))[0]
    assert workload.read_answer(planned, RequestResult(ok=False, error="deadline")) is None


async def test_the_body_asks_for_what_the_gate_says(make_serve: MakeServe) -> None:
    gate = spec(thinking=False, ignore_eos=True, extra_body={"top_p": 0.5})
    async with ready(gate, make_serve().endpoint("vllm")) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        planned = (await workload.requests(cell, 0, 0, "measure", control))[0]
    body = {key: value for key, value in planned.body.items() if key not in ("messages", "cache_salt")}
    assert planned.path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "max_tokens": 16,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "ignore_eos": True,
        "chat_template_kwargs": {"thinking": False},
        "top_p": 0.5,
    }


@pytest.mark.parametrize(("asked", "count"), [(0, 0), (1, 1), (3, 3), ("concurrency", 2)])
async def test_a_warm_up_sends_as_many_requests_as_the_gate_says(
    make_serve: MakeServe, asked: int | str, count: int
) -> None:
    gate = spec().model_copy(update={"warmup": spec().warmup.model_copy(update={"requests_per_cell": asked})})
    async with ready(gate, make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        assert len(await workload.requests(cell, 0, 0, "warmup", control)) == count


async def test_a_prompt_that_the_serve_has_no_room_for_is_refused_before_anything_is_sent(
    make_serve: MakeServe,
) -> None:
    serve = make_serve()
    with pytest.raises(WorkloadError, match=r"needs 2,064 tokens.*2,063"):
        async with ready(spec(), serve.endpoint(max_model_len=2063)):
            pass
    async with ready(spec(), serve.endpoint(max_model_len=2064)):
        pass


async def test_a_prompt_too_short_for_codes_and_question_is_refused(make_serve: MakeServe) -> None:
    async with ready(spec(tokens=[40]), make_serve().endpoint()) as (workload, control):
        (cell,) = workload._spec.matrix.cells()
        with pytest.raises(WorkloadError, match="40 tokens"):
            await workload.requests(cell, 0, 0, "measure", control)


async def test_a_serve_that_breaks_while_prompts_are_built_is_the_serves_fault_and_not_the_users(
    make_serve: MakeServe,
) -> None:
    """A vLLM whose worker died answers /tokenize with 500 for a while: the run is INVALID, not a wrong command."""
    serve = make_serve()
    async with ready(spec(), serve.endpoint()) as (workload, control):
        (cell, *_) = spec().matrix.cells()
        serve.shutting_down = True
        with pytest.raises(TargetError, match="/tokenize answered HTTP 500"):
            await workload.batch(cell, 0, 0, "measure", control)


@pytest.mark.parametrize("status", [401, 402, 429, 503])
async def test_what_is_not_about_the_prompt_is_no_lack_of_a_tokenizer(status: int) -> None:
    """An API behind --target attach: a gate that only met its rate limit is not one that the serve cannot run."""

    class Refusing:
        async def post_json(self, path: str, body: Any) -> tuple[int, Any]:
            return status, {"error": "no"}

    counter = UsageCounter(cast("ControlClient", Refusing()), "/v1/chat/completions", {}, chat=True)
    with pytest.raises(TargetError, match=f"answered HTTP {status}"):
        await counter.count("text")
