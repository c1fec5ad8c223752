"""Replies that were not streamed become the same record as streams."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ds4bench.client.control import ControlClient
from ds4bench.client.load import LoadClient
from ds4bench.client.transport import Exchange, HttpRequest, HttpxAiohttpTransport
from ds4bench.client.whole import build_whole_result
from ds4bench.core import RequestResult

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def reply(message: Any = None, **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    return {"model": "m", "choices": [choice], "usage": USAGE, **changes}


def read(page: Any, status: int = 200) -> RequestResult:
    body = page if isinstance(page, bytes) else json.dumps(page).encode()
    exchange = Exchange(t0=10.0, status=status, parts=[body], marks=[(10.5, len(body))])
    return build_whole_result(exchange, start_s=0.25, lateness_ms=1.0)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_content_calls_and_counts_are_read(field: str) -> None:
    result = read(reply({"content": None, field: "Hm.", "tool_calls": [CALL]}))
    assert result.ok
    assert (result.content, result.reasoning) == ("", "Hm.")
    assert result.tool_calls == [{"id": "c1", "name": "f", "arguments": '{"a": 1}'}]
    assert (result.prompt_tokens, result.completion_tokens, result.cached_tokens) == (7, 5, 2)
    assert (result.model, result.finish_reason, result.e2e_s, result.start_s) == ("m", "stop", 0.5, 0.25)
    assert (result.ttft_s, result.tpot_ms, result.chunk_times_s) == (None, None, [])


def test_a_completion_has_its_text() -> None:
    assert read({"choices": [{"text": "abc", "finish_reason": "length"}], "usage": USAGE}).content == "abc"


@pytest.mark.parametrize(
    ("page", "status", "error"),
    [
        (b'{"choices": [', 200, "bad_json"),
        (b"data: {}\n\n", 200, "bad_json"),
        (b'{"choices": [{"message": {"content": 3}}]}', 200, "bad_json"),
        (reply(choices=[]), 200, "no_tokens"),
        (reply(usage={"prompt_tokens": 7, "completion_tokens": 0}), 200, "no_tokens"),
        (reply(usage=None), 200, "no_usage"),
        ({"error": {"message": "it broke"}}, 200, "stream_error"),
        ({"error": {"message": "too long"}}, 400, "http_400"),
    ],
)
def test_what_is_no_reply_is_a_failed_request(page: Any, status: int, error: str) -> None:
    result = read(page, status)
    assert (result.ok, result.error) == (False, error)
    assert result.error_detail


def test_a_transfer_that_failed_keeps_its_own_reason() -> None:
    result = build_whole_result(Exchange(t0=1.0), start_s=0, lateness_ms=0, error="deadline", detail="too long")
    assert (result.ok, result.error, result.error_detail) == (False, "deadline", "too long")


@pytest.mark.integration
async def test_over_the_wire_only_a_request_that_says_so_is_read_whole(serve: str) -> None:
    control = ControlClient(serve)
    model = (await control.get_json("/v1/models"))["data"][0]["id"]
    await control.close()
    asked = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "ignore_eos": True}
    body = json.dumps(asked).encode()
    requests = [HttpRequest("/v1/chat/completions", body, streamed=streamed) for streamed in (False, True)]
    async with LoadClient(HttpxAiohttpTransport(serve)) as client:
        whole, as_stream = (await client.run_batch(requests, deadline_s=60)).results
    assert whole.ok, whole.error_detail
    assert (whole.completion_tokens, whole.ttft_s) == (3, None)
    assert whole.e2e_s is not None
    assert whole.e2e_s > 0
    assert as_stream.error == "bad_json"


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter", "insufficient_system_resource"])
def test_a_reply_that_the_serve_cut_short_is_a_failed_request_that_names_the_reason(reason: str) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": reason}
    result = read(reply(choices=[choice]))
    assert (result.ok, result.error, result.finish_reason) == (False, f"finish_{reason}", reason)
