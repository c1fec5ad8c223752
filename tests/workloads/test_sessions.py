"""Prefix cache, soak, needle, oracle and the long-context variants: what they send, with replies made by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ds4bench.client.control import ControlClient
from ds4bench.core import Answer, PlannedRequest, RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.gate import GateSpec
from ds4bench.spec.load import load_gate
from ds4bench.targets.base import Endpoint
from ds4bench.workloads import soak
from ds4bench.workloads.base import Batch, Script, Workload
from ds4bench.workloads.block_size import learn_block_size
from ds4bench.workloads.logprobs import read_logprobs
from ds4bench.workloads.mixed_arrival import meeting
from ds4bench.workloads.registry import make_workload

ROOT = Path(__file__).parents[2]
MakeServe = Callable[..., Any]
Reply = Callable[[PlannedRequest], RequestResult]


def spec(name: str, *overrides: str) -> GateSpec:
    return load_gate(name, profile="smoke", overrides=overrides, directory=ROOT / "gates").spec


@contextlib.asynccontextmanager
async def ready(
    gate: GateSpec, endpoint: Endpoint, run: str = "run-1"
) -> AsyncIterator[tuple[Workload, ControlClient]]:
    control = ControlClient(endpoint.base_url)
    try:
        workload = make_workload(gate, run)
        await workload.prepare(endpoint, control)
        yield workload, control
    finally:
        await control.close()


async def play(script: Script, reply: Reply) -> tuple[list[PlannedRequest], Answer | None]:
    """What a script sends when every request is answered by ``reply``, and what it makes of it."""
    sent: list[PlannedRequest] = []

    async def send(planned: PlannedRequest) -> RequestResult:
        sent.append(planned)
        return reply(planned)

    return sent, await script.run(send)


def saying(text: str, prompt: int = 600, made: int = 20) -> RequestResult:
    return RequestResult(ok=True, content=text, prompt_tokens=prompt, completion_tokens=made)


def last_text(planned: PlannedRequest) -> str:
    return str(planned.body["messages"][-1]["content"])


def codes_in(text: str) -> list[str]:
    return [word.strip(",.") for word in text.split() if word.strip(",.").isdigit() and len(word.strip(",.")) == 6]


def honest(planned: PlannedRequest) -> RequestResult:
    """Answers the question that was asked last, from the first message."""
    codes = codes_in(planned.body["messages"][0]["content"])
    places = {"first": 0, "second": 1, "third": 2}
    asked = [codes[place] for nth, place in places.items() if f"the {nth} code?" in last_text(planned)]
    return saying(", ".join(asked or codes))


async def batch_of(gate: GateSpec, serve: Any, cell_id: str, run: str = "run-1", repeat: int = 0) -> Batch:
    async with ready(gate, serve.endpoint(), run) as (workload, control):
        cell = next(cell for cell in workload._spec.matrix.cells() if cell.id == cell_id)
        return await workload.batch(cell, repeat, 0, "measure", control)


async def test_a_session_has_all_words_in_its_first_turn_and_three_turns(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("prefix-cache"), make_serve(), "solo-w400")
    (script,) = batch.scripts
    sent, answer = await play(script, honest)
    assert [len(planned.body["messages"]) for planned in sent] == [1, 3, 5]
    assert 400 <= len(last_text(sent[0]).split()) < 500
    assert all(len(last_text(planned).split()) < 10 for planned in sent[1:])
    assert [planned.expect["prefix_tokens"] for planned in sent] == [0, 600, 600]
    assert [planned.expect["reply_tokens"] for planned in sent] == [0, 19, 19]  # its last token was never fed back
    assert {(planned.expect["block_size"], planned.expect["block_size_from"]) for planned in sent} == {(256, "default")}
    assert answer is not None
    assert answer.scores == {"answers": 1.0}


async def test_answers_with_somebody_elses_codes_are_wrong(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("prefix-cache"), make_serve(), "pair-w100")
    first, second = batch.scripts
    told: dict[int, str] = {}

    async def send(planned: PlannedRequest) -> RequestResult:
        result = honest(planned)
        told[len(planned.body["messages"])] = result.content
        return result

    await second.run(send)
    _, answer = await play(first, lambda planned: saying(told[len(planned.body["messages"])]))
    assert answer is not None
    assert answer.scores == {"answers": 0.0}


async def test_sessions_are_salted_by_run_trial_and_session_inside_the_first_block(make_serve: MakeServe) -> None:
    serve, beginnings = make_serve(), []
    for run in ("run-1", "run-2"):
        for repeat in (0, 1):
            for cell in ("solo-w100", "pair-w100", "shared-w100"):
                batch = await batch_of(spec("prefix-cache"), serve, cell, run, repeat)
                beginnings += [last_text(s.first)[:16] for s in batch.scripts if s.first is not None]
    assert len(beginnings) == 2 * 2 * 4
    assert len(set(beginnings)) == len(beginnings)


async def test_a_shared_session_begins_with_the_same_prompt_and_repeats_all_of_it(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("prefix-cache"), make_serve(), "shared-w100")
    sent, answer = await play(batch.scripts[0], honest)
    assert sent[0].body["messages"] == sent[1].body["messages"]
    assert [planned.expect["prefix_tokens"] for planned in sent] == [0, 600, 600]
    assert [planned.expect["reply_tokens"] for planned in sent] == [0, 0, 19]
    assert [len(planned.body["messages"]) for planned in sent] == [1, 1, 3]
    assert answer is not None
    assert answer.scores == {"answers": 1.0}


async def test_a_session_ends_with_a_failed_turn_and_has_no_score(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("prefix-cache"), make_serve(), "solo-w100")
    sent, answer = await play(batch.scripts[0], lambda _: RequestResult(ok=False, error="deadline"))
    assert (len(sent), answer) == (1, None)


class Pages:
    """A control client of a serve with these pages."""

    def __init__(self, metrics: str | None, **pages: Any) -> None:
        self.metrics, self.pages = metrics, pages

    async def metrics_text(self) -> str | None:
        return self.metrics

    async def get_json(self, path: str) -> Any:
        return self.pages.get(path.strip("/"))


@pytest.mark.parametrize(
    ("given", "pages", "found"),
    [
        (64, Pages('vllm:cache_config_info{block_size="128"} 1.0'), (64, "option")),
        (None, Pages('# x\nvllm:cache_config_info{a="b",block_size="128"} 1.0\n'), (128, "/metrics")),
        (None, Pages(None, version={"flags": {"block_size": 512}}), (512, "/version")),
        (None, Pages("", server_info={"page_size": 64}), (64, "/server_info")),
        (None, Pages(None, version={"version": "0.1"}), (256, "default")),
    ],
)
async def test_the_block_size_is_the_option_or_what_the_serve_says_or_the_default(
    given: int | None, pages: Any, found: tuple[int, str]
) -> None:
    assert await learn_block_size(pages, given) == found


async def test_the_needle_stands_at_fifteen_places_of_prompts_of_one_length(make_serve: MakeServe) -> None:
    serve = make_serve()
    batch = await batch_of(spec("needle", "matrix.prompt_tokens=[2048]"), serve, "p2048-c2")
    assert batch.slots == 2
    places = []
    for script in batch.scripts:
        assert script.first is not None
        text, (code,) = last_text(script.first), script.first.expect["codes"]
        assert serve.count(script.first.body) == 2048
        places.append(text.index(code) / len(text))
        _, found = await play(script, lambda _, code=code: saying(f"It is {code}."))
        _, missed = await play(script, lambda _, code=code: saying(f"It is 1{code}."))
        assert found is not None
        assert missed is not None
        assert (found.scores, missed.scores) == ({"needle": 1.0}, {"needle": 0.0})
    assert len(places) == len({script.key for script in batch.scripts}) == 15
    assert places == sorted(places)
    assert places[0] < 0.1
    assert places[-1] > 0.9


async def test_a_soak_conversation_grows_round_by_round_and_goes_on_for_its_duration(
    make_serve: MakeServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await batch_of(spec("soak"), make_serve(), "soak-c4")
    assert len(batch.scripts) == 4
    sent, _ = await play(batch.scripts[0], lambda _: saying("Nothing."))
    assert [len(planned.body["messages"]) for planned in sent] == [1, 3, 5, 7, 9]
    timed = await batch_of(spec("soak", "options.duration_s=50"), make_serve(), "soak-c4")
    seen: list[PlannedRequest] = []
    monkeypatch.setattr(soak, "time", SimpleNamespace(monotonic=lambda: 4.0 * len(seen)))  # four seconds a request

    async def send(planned: PlannedRequest) -> RequestResult:
        seen.append(planned)
        return saying("Nothing.")

    answer = await timed.scripts[0].run(send)
    assert answer is not None
    assert answer.detail["conversations"] == 3  # begun at 0, 20 and 40 s
    assert len(seen) == 5 * answer.detail["conversations"]
    beginnings = {last_text(planned)[:16] for planned in seen if planned.expect["round"] == 0}
    assert len(beginnings) == answer.detail["conversations"]


async def test_oracle_prompts_are_the_same_in_every_run_and_unsalted(make_serve: MakeServe) -> None:
    serve, bodies = make_serve(), []
    for run in ("run-1", "run-2"):
        batch = await batch_of(spec("oracle"), serve, "w200-c2", run)
        bodies.append([script.first.body for script in batch.scripts if script.first is not None])
    assert [body["prompt"] for body in bodies[0]] == [body["prompt"] for body in bodies[1]]
    assert len({body["prompt"] for body in bodies[0]}) == 4
    assert all(a["cache_salt"] != b["cache_salt"] for a, b in zip(*bodies, strict=True))
    assert {(body["temperature"], body["logprobs"]) for body in bodies[0]} == {(0.0, 8)}
    assert all(body["return_tokens_as_token_ids"] for body in bodies[0])
    batch = await batch_of(spec("oracle", "options.tokens=text"), serve, "w200-c2")
    assert all("return_tokens_as_token_ids" not in script.first.body for script in batch.scripts if script.first)


async def test_the_oracle_refuses_what_is_not_greedy(make_serve: MakeServe) -> None:
    with pytest.raises(WorkloadError, match="temperature to 0"):
        async with ready(spec("oracle", "request.temperature=0.5"), make_serve().endpoint()):
            pass


def test_logprobs_of_chunks_are_joined_and_the_chosen_token_is_always_among_its_rivals() -> None:
    chunks = [
        {"tokens": ["a"], "token_logprobs": [-0.12345678], "top_logprobs": [{"a": -0.12345678, "b": -2.5}]},
        {"tokens": ["c", "d"], "token_logprobs": [-3.0, -1.0], "top_logprobs": [{"x": -0.1, "y": -2.9}, None]},
    ]
    found = read_logprobs(chunks)
    assert found["tokens"] == ["a", "c", "d"]
    assert found["top"] == [{"a": -0.1235, "b": -2.5}, {"x": -0.1, "y": -2.9, "c": -3.0}, {"d": -1.0}]


async def test_decoding_waits_until_every_prompt_of_the_batch_is_prefilled(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("long-context-decode"), make_serve(), "p3072-c2")
    order: list[tuple[int, int]] = []

    def sender(number: int, wait_s: float) -> Any:
        async def send(planned: PlannedRequest) -> RequestResult:
            order.append((number, planned.body["max_tokens"]))
            await asyncio.sleep(wait_s)
            return saying("x")

        return send

    first, second = batch.scripts
    await asyncio.gather(first.run(sender(0, 0.0)), second.run(sender(1, 0.03)))
    assert sorted(order[:2]) == [(0, 1), (1, 1)]
    assert sorted(order[2:]) == [(0, 48), (1, 48)]


async def test_a_failed_prefill_does_not_keep_the_others_waiting(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("long-context-decode"), make_serve(), "p3072-c2")

    async def fails(_: PlannedRequest) -> RequestResult:
        return RequestResult(ok=False, error="http_500")

    sent: list[PlannedRequest] = []

    async def works(planned: PlannedRequest) -> RequestResult:
        sent.append(planned)
        return saying("x")

    async with asyncio.timeout(5):
        await asyncio.gather(batch.scripts[0].run(fails), batch.scripts[1].run(works))
    assert [planned.expect["step"] for planned in sent] == ["prefill", "decode"]


def planned(index: int) -> PlannedRequest:
    return PlannedRequest("c", index, "/v1/completions", {}, {})


@pytest.mark.parametrize("behind_token", [True, False])
async def test_the_second_request_comes_behind_the_token_or_the_start_of_the_first(behind_token: bool) -> None:
    lead, follow = meeting(planned(0), planned(1), 0.0, behind_token=behind_token)
    events: list[str] = []
    token = asyncio.Event()

    async def first(_: PlannedRequest) -> RequestResult:
        events.append("first sent")
        await token.wait()
        events.append("token")
        if lead.on_first_token is not None:
            lead.on_first_token()
        await asyncio.sleep(0.01)
        events.append("first ended")
        return saying("x")

    async def second(_: PlannedRequest) -> RequestResult:
        events.append("second sent")
        token.set()
        return saying("y")

    if behind_token:
        token.set()
    async with asyncio.timeout(5):
        await asyncio.gather(lead.run(first), follow.run(second))
    wanted = ["first sent", "token", "second sent", "first ended"]
    assert events == (wanted if behind_token else ["first sent", "second sent", "token", "first ended"])
    assert (lead.at_barrier, follow.at_barrier) == (True, False)


async def test_a_first_request_that_fails_without_a_token_does_not_keep_the_second_waiting() -> None:
    lead, follow = meeting(planned(0), planned(1), 0.0, behind_token=True)
    sent: list[int] = []

    async def send(request: PlannedRequest) -> RequestResult:
        sent.append(request.index)
        return RequestResult(ok=False, error="http_500")

    async with asyncio.timeout(5):
        await asyncio.gather(lead.run(send), follow.run(send))
    assert sent == [0, 1]


def telling(cached: int, *logprobs: float) -> RequestResult:
    """A chat reply with the logprobs of its places."""
    places = [{"token": "a", "logprob": p, "top_logprobs": [{"token": "b", "logprob": p - 2}]} for p in logprobs]
    return RequestResult(
        ok=True, content="aa", prompt_tokens=600, completion_tokens=2, cached_tokens=cached, logprobs=[{"content": places}]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cached", "cold_again", "score"),
    [
        (telling(512, -0.1, -0.2), telling(0, -0.1, -0.2), 1.0),
        (telling(512, -0.1, -0.24), telling(0, -0.1, -0.2), 1.0),
        (telling(512, -0.3, -0.4), telling(0, -0.1, -0.2), 0.0),
        (telling(512, -0.3, -0.4), telling(0, -0.2, -0.3), 1.0),  # the serve differs from itself as much
        (telling(0, -0.3, -0.4), telling(0, -0.1, -0.2), None),  # nothing was cached
    ],
)
async def test_a_prompt_sent_again_tells_whether_the_cache_gave_back_what_was_computed(
    make_serve: MakeServe, cached: RequestResult, cold_again: RequestResult, score: float | None
) -> None:
    batch = await batch_of(spec("prefix-cache"), make_serve(), "again-w400")
    assert batch.slots == 1 and len(batch.scripts) == 2
    replies = iter([telling(0, -0.1, -0.2), cached, cold_again])
    sent, answer = await play(batch.scripts[0], lambda _: next(replies))
    assert answer is not None
    assert answer.scores.get("same_when_cached") == score
    first, second, third = sent
    assert first.body == second.body and first.body["top_logprobs"] == 8
    assert third.body == {**first.body, "cache_salt": third.body["cache_salt"]}
    assert [planned.expect["prefix_tokens"] for planned in sent] == [0, 600, 0]


async def test_oracle_openings_are_a_few_bare_words_with_short_replies(make_serve: MakeServe) -> None:
    batch = await batch_of(spec("oracle"), make_serve(), "w4-c2")
    first = [script.first for script in batch.scripts if script.first is not None]
    assert len(first) == 24
    assert [len(planned.body["prompt"].split()) for planned in first[:5]] == [1, 2, 3, 4, 1]
    assert {planned.body["max_tokens"] for planned in first} == {4}
