"""What a streamed request is measured as, over real sockets."""

from __future__ import annotations

import json
from typing import Any

import pytest

# A pause that the client must see at least half of: it may read what came before the pause late.
PAUSE, AT_LEAST = 0.08, 0.04


async def test_ttft_ends_at_the_first_token_and_not_at_the_role(one: Any, s: Any) -> None:
    result = await one(
        [
            (0, s.chunk(role="assistant", content="")),
            (PAUSE, b": keep-alive\n\n"),
            (PAUSE, s.chunk(content="a")),
            (PAUSE, s.chunk(content="b")),
            (PAUSE, s.chunk(content="c", finish="stop")),
            (PAUSE, s.usage(3) + s.done),
        ]
    )
    assert result.ok, result.error_detail
    assert result.ttft_s >= 2 * AT_LEAST
    assert result.first_byte_s < result.ttft_s - AT_LEAST
    assert result.ttfa_s == result.ttft_s
    assert result.e2e_s - result.ttft_s >= 2 * AT_LEAST
    assert result.stream_close_ms >= AT_LEAST * 1000
    assert result.tpot_ms == pytest.approx((result.e2e_s - result.ttft_s) * 1000 / 2)
    assert result.tpot_decode_ms is None  # no running usage, so the tokens of the first chunk are not known
    assert (result.content, result.comments, result.finish_reason, result.model) == ("abc", 1, "stop", "m")
    assert (result.prompt_tokens, result.completion_tokens, len(result.chunk_times_s)) == (10, 3, 3)
    assert result.connect_ms > 0


async def test_tpot_decode_leaves_out_all_tokens_of_the_first_chunk(one: Any, s: Any) -> None:
    steps = [(0, s.chunk(role="assistant", content="", usage=0)), (0, s.chunk(content="abc", usage=3))]
    steps += [(PAUSE, s.chunk(content="de", usage=5)), (0, s.chunk(finish="length", usage=5) + s.usage(5) + s.done)]
    result = await one(steps)
    span = (result.chunk_times_s[-1] - result.chunk_times_s[0]) * 1000
    assert result.first_chunk_tokens == 3
    assert result.tpot_decode_ms == pytest.approx(span / 2)
    assert result.tpot_ms == pytest.approx(span / 4)
    assert len(result.chunk_times_s) == 2


async def test_an_empty_chunk_is_a_token_only_if_the_running_usage_rose(one: Any, s: Any) -> None:
    steps = [
        (0, s.chunk(content="", usage=0)),
        (PAUSE, s.chunk(content="", usage=1)),
        (0.01, s.chunk(content="", usage=1)),
    ]
    steps += [(0.01, s.chunk(content="x", usage=2)), (0.01, s.chunk(content="", finish="stop", usage=3) + s.done)]
    result = await one(steps)
    assert result.ok, result.error_detail
    assert result.ttft_s >= AT_LEAST
    assert len(result.chunk_times_s) == 3
    assert result.ttfa_s == result.chunk_times_s[1]


async def test_usage_that_comes_with_the_finish_reason_only_is_no_token(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="x")), (PAUSE, s.chunk(content="", finish="stop", usage=1) + s.done)])
    assert result.ok, result.error_detail
    assert len(result.chunk_times_s) == 1
    assert result.stream_close_ms >= AT_LEAST * 1000


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
async def test_reasoning_counts_for_ttft_and_not_for_ttfa(one: Any, s: Any, name: str) -> None:
    last = s.usage(2, completion_tokens_details={"reasoning_tokens": 1}) + s.done
    result = await one([(0, s.chunk(**{name: "hm"})), (PAUSE, s.chunk(content="4", finish="stop")), (0, last)])
    assert result.ok, result.error_detail
    assert (result.reasoning, result.content, result.reasoning_tokens) == ("hm", "4", 1)
    assert result.ttfa_s - result.ttft_s >= AT_LEAST


async def test_tool_calls_are_merged_and_count(one: Any, s: Any) -> None:
    def call(**function: str) -> list[dict[str, Any]]:
        return [{"index": 0, "function": function}]

    first = [{"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": ""}}]
    parts = [
        s.chunk(tool_calls=first),
        s.chunk(tool_calls=call(arguments='{"a"')),
        s.chunk(tool_calls=call(arguments=":1}")),
    ]
    result = await one([(0, part) for part in parts] + [(0, s.chunk(finish="tool_calls") + s.usage(3) + s.done)])
    assert result.tool_calls == [{"id": "c1", "name": "add", "arguments": '{"a":1}'}]
    assert (len(result.chunk_times_s), result.ttfa_s) == (3, result.ttft_s)


async def test_completions_text_counts(one: Any, s: Any) -> None:
    parts = [s.event({"choices": [{"text": text, "finish_reason": end}]}) for text, end in (("a", None), ("b", "stop"))]
    result = await one([(0, part) for part in parts] + [(0, s.usage(2) + s.done)])
    assert (result.ok, result.content, len(result.chunk_times_s)) == (True, "ab", 2)


@pytest.mark.parametrize(
    "usage",
    [{"prompt_tokens_details": {"cached_tokens": 7}}, {"prompt_cache_hit_tokens": 7, "prompt_cache_miss_tokens": 3}],
)
async def test_cached_tokens_under_both_names(one: Any, s: Any, usage: dict[str, Any]) -> None:
    result = await one([(0, s.chunk(content="a", finish="stop") + s.usage(1, **usage) + s.done)])
    assert result.cached_tokens == 7


async def test_cached_tokens_stay_unknown_when_the_serve_does_not_say(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="a", finish="stop") + s.usage(1, prompt_tokens_details=None) + s.done)])
    assert (result.ok, result.cached_tokens) == (True, None)


async def test_a_character_split_between_reads_arrives_whole_and_late(one: Any, s: Any) -> None:
    data = s.chunk(content="汉字")
    cut = data.index("汉".encode()) + 1
    result = await one([(0, data[:cut]), (PAUSE, data[cut:]), (0, s.chunk(finish="stop") + s.usage(1) + s.done)])
    assert result.content == "汉字"
    assert result.ttft_s - result.first_byte_s >= AT_LEAST


async def test_events_that_come_in_one_read_are_a_burst(one: Any, s: Any) -> None:
    result = await one(
        [(0.05, s.chunk(content="a") + s.chunk(content="b")), (0.05, s.chunk(finish="stop") + s.usage(2))]
    )
    assert result.burst_reads == 1
    assert result.chunk_times_s[0] == result.chunk_times_s[1]


@pytest.mark.parametrize("tail", [b"", b"data: [DONE]\n", b"data: [DONE]"])
async def test_the_end_marker_may_be_missing_or_unfinished(one: Any, s: Any, tail: bytes) -> None:
    result = await one([(0, s.chunk(content="a", finish="stop") + s.usage(1) + tail)])
    assert result.ok, result.error_detail


async def test_a_stream_that_ends_with_its_connection(one: Any, s: Any, script: Any) -> None:
    end = s.chunk(content="a", finish="stop") + s.usage(1) + s.done
    result = await one(script([(0, end)], chunked=False))
    assert result.ok, result.error_detail


async def test_a_disconnect_keeps_what_had_arrived(one: Any, s: Any, script: Any) -> None:
    result = await one(script([(0.02, s.chunk(content="a")), (0.02, s.chunk(content="b"))], cut=True))
    assert (result.ok, result.error, result.content) == (False, "disconnect", "ab")
    assert result.ttft_s > 0


async def test_a_disconnect_before_any_byte_of_the_body(one: Any, script: Any) -> None:
    result = await one(script([], cut=True))
    assert (result.ok, result.error) == (False, "disconnect")


async def test_a_stream_that_just_stops_is_a_disconnect(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="a"))])
    assert (result.ok, result.error) == (False, "disconnect")


async def test_a_reply_that_is_not_http_is_a_disconnect(one: Any, s: Any, script: Any) -> None:
    broken = script(
        [(0, b"3\r\nabc\r\n"), (0, b"nonsense\r\n")], chunked=False, headers={"transfer-encoding": "chunked"}
    )
    assert (await one(broken)).error == "disconnect"


async def test_a_trickle_does_not_outlive_its_deadline(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="a"))] + [(0.02, s.chunk(content="b"))] * 500, deadline_s=0.3)
    assert (result.ok, result.error) == (False, "deadline")
    assert result.content.startswith("ab")
    assert len(result.content) < 500


@pytest.mark.parametrize("steps", [[(30, b"")], [(0, b": nothing yet\n\n"), (30, b"")]])
async def test_a_silent_stream_ends_at_its_deadline(one: Any, steps: Any) -> None:
    result = await one(steps, deadline_s=0.2)
    assert (result.error, result.ttft_s) == ("deadline", None)


@pytest.mark.parametrize(("status", "word"), [("429 Too Many Requests", "http_429"), ("500 Oops", "http_500")])
async def test_http_errors_keep_the_serves_words(one: Any, script: Any, status: str, word: str) -> None:
    result = await one(script([(0, b'{"error": "no\n  room"}')], status=status))
    assert (result.ok, result.error, result.error_detail) == (False, word, '{"error": "no room"}')


async def test_a_redirect_is_an_error_and_sends_no_key_elsewhere(one: Any, script: Any, server: Any) -> None:
    headers = {"location": f"{server.url}/elsewhere"}
    result = await one(script([], status="307 Temporary Redirect", headers=headers))
    assert result.error == "http_307"
    assert sum(request.startswith("POST") for request, _, _ in server.seen) == 1


async def test_broken_json_names_the_place(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="a") + b'data: {"choices": [\n\n' + s.usage(1) + s.done)])
    assert (result.ok, result.error, result.content) == (False, "bad_json", "a")
    assert '{"choices": [' in result.error_detail


async def test_a_reply_that_is_not_a_stream_says_so(one: Any) -> None:
    result = await one([(0, json.dumps({"choices": []}).encode())])
    assert result.error == "bad_json"
    assert "not an event stream" in result.error_detail


async def test_an_error_in_the_stream_is_not_a_short_answer(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="a") + s.event({"error": {"message": "out of memory"}}) + s.done)])
    assert not result.ok
    assert "out of memory" in result.error_detail


async def test_tokens_are_never_estimated(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(content="a", finish="stop") + s.done)])
    assert (result.ok, result.error, result.completion_tokens, result.tpot_ms) == (False, "no_usage", None, None)


async def test_an_answer_without_a_token_is_a_failure(one: Any, s: Any) -> None:
    result = await one([(0, s.chunk(role="assistant", content="") + s.chunk(finish="stop") + s.usage(0) + s.done)])
    assert (result.ok, result.error, result.ttft_s) == (False, "no_tokens", None)


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "insufficient_system_resource"])
@pytest.mark.parametrize("content", ["ab", ""])
async def test_a_reply_that_the_serve_cut_short_is_a_failed_request_that_names_the_reason(
    one: Any, s: Any, reason: str, content: str
) -> None:
    result = await one([(0, s.chunk(content=content)), (0.01, s.chunk(finish=reason)), (0, s.usage(2) + s.done)])
    assert (result.ok, result.error, result.finish_reason) == (False, f"finish_{reason}", reason)
    assert reason in result.error_detail


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
async def test_a_reply_that_came_to_an_end_is_whole(one: Any, s: Any, reason: str) -> None:
    assert (await one([(0, s.chunk(content="ab")), (0, s.chunk(finish=reason) + s.usage(2) + s.done)])).ok
