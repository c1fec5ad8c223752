"""Without a fault every byte passes unchanged; each fault changes the reply as it says, and nothing else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from ds4bench.errors import SpecError
from ds4bench.trust.proxy import Proxy
from ds4bench.trust.proxy_faults import PROXY_FAULTS, choose
from ds4bench.trust.reply_faults import Amount, Arrival, LateFirstToken, SlowChunks

Json = dict[str, Any]
Through = Callable[..., Awaitable[Any]]

pytestmark = pytest.mark.usefixtures("reply")


def text(chunks: Sequence[Json], name: str = "content") -> str:
    deltas = [c["choices"][0]["delta"] for c in chunks if c["choices"]]
    return "".join(d.get(name) or "" for d in deltas)


async def test_without_a_fault_every_byte_and_header_passes(through: Through, upstream: Any) -> None:
    client = await through()
    assert await client.stream(messages=[{"role": "user", "content": "é"}]) == b"".join(upstream.writes)
    assert upstream.asked == [{"stream": True, "messages": [{"role": "user", "content": "é"}]}]
    async with client.session.get(client.url + "/metrics?x=1", headers={"Authorization": "Bearer k"}) as answer:
        assert await answer.read() == b"# metrics\n"
        assert answer.headers["x-serve"] == "yes"
    assert upstream.headers[-1]["Authorization"] == "Bearer k"


async def test_a_fault_that_finds_nothing_to_change_passes_every_byte(through: Through, upstream: Any) -> None:
    client = await through("dropped-chunks:1000", "primed")
    assert await client.stream() == b"".join(upstream.writes)


async def test_a_serve_that_is_gone_is_a_502() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with TestClient(TestServer(Proxy(closed, []).app())) as client, client.get("/health") as answer:
        assert answer.status == 502


async def test_every_second_request_is_refused(through: Through) -> None:
    client = await through("http-503:2")
    assert [await client.status() for _ in range(4)] == [200, 503, 200, 503]


async def test_chunks_are_dropped_with_their_text_only(through: Through, reply: Sequence[Json]) -> None:
    chunks = await (await through("dropped-chunks:2")).chunks()
    assert len(chunks) == len(reply)
    assert text(chunks) == " is 40, 永遠."  # reasoning is the first chunk with text
    assert chunks[-1]["usage"] == reply[-1]["usage"]


async def test_bytes_are_split_and_read_the_same(through: Through, upstream: Any) -> None:
    upstream.writes = upstream.writes[:3]
    client = await through("split-bytes")
    assert await client.stream() == b"".join(upstream.writes)


async def test_events_come_together_in_one_read(through: Through, upstream: Any) -> None:
    upstream.gap_s = 0.02
    apart, together = await (await through()).reads(), await (await through("merged-chunks:6")).reads()
    assert b"".join(apart) == b"".join(together)
    assert len(together) < len(apart) / 2


@pytest.mark.parametrize(("word", "cached"), [("none", 0), ("all", 100)])
async def test_cached_tokens_are_a_lie(through: Through, word: str, cached: int) -> None:
    client = await through(f"cached:{word}")
    usages = [chunk["usage"] for chunk in [*await client.chunks(), await client.whole()] if "usage" in chunk]
    assert {usage["prompt_tokens_details"]["cached_tokens"] for usage in usages} == {cached}
    assert {usage["prompt_tokens"] for usage in usages} == {100}


async def test_a_primed_prompt_is_asked_twice(through: Through, upstream: Any) -> None:
    await (await through("primed")).stream(messages=[{"role": "user", "content": "x"}], max_tokens=8, cache_salt="s")
    first, second = upstream.asked
    assert first == {"messages": second["messages"], "max_tokens": 1, "cache_salt": "s", "stream": False}
    assert second["max_tokens"] == 8


async def test_thinking_does_not_reach_the_serve(through: Through, upstream: Any) -> None:
    client = await through("thinking-dropped")
    await client.stream(chat_template_kwargs={"thinking": True}, reasoning_effort="high", max_tokens=8)
    assert upstream.asked == [{"stream": True, "max_tokens": 8}]


@pytest.mark.parametrize("word", ["reasoning", "reasoning_content", "both"])
async def test_reasoning_has_another_name(through: Through, word: str) -> None:
    client = await through(f"reasoning-field:{word}")
    chunks, whole = await client.chunks(), await client.whole()
    for name in ("reasoning", "reasoning_content"):
        assert bool(text(chunks, name)) == (word in (name, "both"))
        assert (name in whole["choices"][0]["message"]) == (word in (name, "both"))


async def test_tool_calls_leak_as_markup_a_character_a_chunk(through: Through) -> None:
    chunks = await (await through("dsml-leak")).chunks()
    assert not any("tool_calls" in c["choices"][0]["delta"] for c in chunks if c["choices"])
    leaked = text(chunks).partition("永遠.")[2]
    assert leaked == '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="find">\n{"a": 1}'
    pieces = [c["choices"][0]["delta"].get("content") for c in chunks if c["choices"]]
    assert pieces.count("｜") == 4
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "stop"


async def test_tool_calls_do_not_arrive_and_all_else_does(through: Through, upstream: Any) -> None:
    upstream.whole["choices"][0] |= {"finish_reason": "tool_calls"}
    upstream.whole["choices"][0]["message"]["tool_calls"] = [{"id": "c1", "function": {"name": "find"}}]
    client = await through("calls-dropped")
    chunks, whole = await client.chunks(), (await client.whole())["choices"][0]
    assert not any("tool_calls" in c["choices"][0]["delta"] for c in chunks if c["choices"])
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == "stop"
    assert text(chunks) == "The code is 4027, 永遠."
    assert "tool_calls" not in whole["message"] and whole["finish_reason"] == "stop"
    assert whole["message"]["content"] == "The code is 4027."


async def test_digits_of_the_content_are_others_and_the_same_for_the_same_seed(through: Through) -> None:
    first, again = [await (await through("poisoned-digits")).chunks() for _ in range(2)]
    assert first == again
    code = text(first).split("is ")[1][:4]
    assert code.isdigit() and all(a != b for a, b in zip(code, "4027", strict=True))
    assert text(first).replace(code, "4027") == "The code is 4027, 永遠."


async def test_the_longest_text_loses_its_beginning(through: Through, upstream: Any) -> None:
    client = await through("truncated-prompt:30%")
    await client.stream(messages=[{"role": "system", "content": "short"}, {"role": "user", "content": "0123456789"}])
    assert [message["content"] for message in upstream.asked[0]["messages"]] == ["short", "3456789"]


async def test_the_reason_at_the_end_is_another(through: Through) -> None:
    client = await through("finish-reason:length")
    reasons = [c["choices"][0]["finish_reason"] for c in await client.chunks() if c["choices"]]
    assert reasons[-1] == "length" and set(reasons[:-1]) == {None}
    assert (await client.whole())["choices"][0]["finish_reason"] == "length"


async def test_usage_is_gone(through: Through, reply: Sequence[Json]) -> None:
    client = await through("no-usage")
    chunks = await client.chunks()
    assert len(chunks) == len(reply) - 1 and not any("usage" in chunk for chunk in [*chunks, await client.whole()])


async def test_the_model_is_another_and_tokens_are_more(through: Through) -> None:
    client = await through("other-model", "inflated-tokens:100%")
    chunks = await client.chunks()
    assert {chunk["model"] for chunk in chunks} == {"m-next"}
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if "usage" in chunk] == [2, 4, 6, 8, 10, 12]


async def test_the_tenth_stream_hangs_and_its_request_ends_at_the_serve(through: Through, upstream: Any) -> None:
    client = await through("hang:2")
    for _ in range(9):
        assert (await client.stream()).endswith(b"data: [DONE]\n\n")
    upstream.gap_s = 0.05
    seen = b""
    async with client.session.post(client.url + "/v1/chat/completions", json={"stream": True}) as answer:
        while b"The code" not in seen:
            seen += await answer.content.readany()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.4):
                seen += await answer.content.readany()
    assert seen.count(b'"content": ') == 2 and b"The code" in seen and b" is 40" not in seen


async def test_a_client_that_goes_away_ends_the_request_at_the_serve(through: Through, upstream: Any) -> None:
    upstream.writes, upstream.gap_s = upstream.writes * 20, 0.02
    client = await through("other-model")
    async with client.session.post(client.url + "/v1/chat/completions", json={"stream": True}) as answer:
        await answer.content.readany()
    await asyncio.wait_for(upstream.cancelled.wait(), 5)


async def test_a_delay_holds_every_chunk_for_at_least_its_time(through: Through, upstream: Any) -> None:
    loop = asyncio.get_running_loop()
    client, begun = await through("late-first-token:150ms"), loop.time()
    assert await client.stream() == b"".join(upstream.writes)
    assert loop.time() - begun >= 0.15


def fault(kind: type, value: float, percent: bool) -> Any:
    return kind(1, Amount(value, percent=percent), None)


def test_delays_are_shares_of_what_was_measured_or_milliseconds() -> None:
    third = Arrival(request_s=10.0, first_s=12.0, now_s=13.0, index=2)
    assert fault(LateFirstToken, 20, True).hold_s(third) == pytest.approx(0.4)
    assert fault(LateFirstToken, 20, False).hold_s(third) == pytest.approx(0.02)
    assert fault(SlowChunks, 30, True).hold_s(third) == pytest.approx(0.3)
    assert fault(SlowChunks, 30, False).hold_s(third) == pytest.approx(0.06)


@pytest.mark.parametrize("wrong", ["no-such", "hang", "hang:x", "no-usage:1", "truncated-prompt:30", "cached:some"])
def test_a_wrong_fault_is_refused_in_one_line(wrong: str) -> None:
    with pytest.raises(SpecError, match=f"--fault {wrong}") as error:
        choose([wrong])
    assert "\n" not in str(error.value)


def test_every_example_of_the_listing_is_understood() -> None:
    assert [chosen.text for chosen in choose(fault.form for fault in PROXY_FAULTS.values())]
