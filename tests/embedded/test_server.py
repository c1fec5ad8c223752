"""The HTTP surface of the embedded engine, over real sockets."""

from __future__ import annotations

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

pytestmark = pytest.mark.integration


CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}]}


def tool(**more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


TOOLS = {"tools": [tool()]}
BAD_CALL = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[1]"}}]}


@pytest.fixture
def client(serve: str) -> httpx.Client:
    return httpx.Client(base_url=serve, timeout=60)


def events(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def counter(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def test_health_version_and_models_say_who_answers(client: httpx.Client) -> None:
    assert client.get("/health").status_code == 200
    version = client.get("/version").json()
    assert (version["engine"], version["weights"], version["faults"]) == ("ds4bench-embedded", "trained", [])
    card = client.get("/v1/models").json()["data"][0]
    assert card["id"] == "ds4-nano"
    assert card["max_model_len"] == 16 * 256


def test_streamed_and_whole_completions_are_the_same(client: httpx.Client) -> None:
    body = {"prompt": "The baker counted", "max_tokens": 12, "temperature": 0}
    whole = client.post("/v1/completions", json=body).json()
    streamed = events(client.post("/v1/completions", json={**body, "stream": True}))
    assert streamed[-1] == "[DONE]"
    text = "".join(chunk["choices"][0]["text"] for chunk in streamed[:-1])
    assert text == whole["choices"][0]["text"] != ""
    assert whole["usage"]["completion_tokens"] == 12
    assert "usage" not in streamed[0]


def test_chat_streams_role_first_usage_last_and_counts_every_chunk(client: httpx.Client) -> None:
    body = {
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "ignore_eos": True,
    }  # fmt: skip
    chunks = events(client.post("/v1/chat/completions", json=body))
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[0]["usage"]["completion_tokens"] == 0
    assert [c["usage"]["completion_tokens"] for c in chunks[1:-2]] == [1, 2, 3, 4, 5, 6]
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
    assert chunks[-3]["choices"][0]["finish_reason"] == "length"


def test_thinking_is_on_unless_switched_off_and_is_counted(client: httpx.Client) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "temperature": 0}
    for on in ({}, {"chat_template_kwargs": {"thinking": True}}, {"reasoning_effort": "low"}):
        reply = client.post("/v1/chat/completions", json={**body, **on}).json()
        assert reply["choices"][0]["message"]["reasoning"]
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5
    for off in ({"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}):
        reply = client.post("/v1/chat/completions", json={**body, **off}).json()
        assert reply["choices"][0]["message"]["reasoning"] is None
        assert reply["choices"][0]["message"]["content"]
        assert "completion_tokens_details" not in reply["usage"]


def test_a_repeated_prompt_is_cached_unless_salted(client: httpx.Client) -> None:
    prompt = "The clerk measured every lantern by the harbour. " * 60
    body = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
    first = client.post("/v1/completions", json=body).json()["usage"]
    hits = counter(client, "vllm:prefix_cache_hits_total")
    again = client.post("/v1/completions", json=body).json()["usage"]
    salted = client.post("/v1/completions", json={**body, "cache_salt": "x"}).json()["usage"]
    cached = first["prompt_tokens"] // 256 * 256
    assert cached >= 256
    assert [u["prompt_tokens_details"]["cached_tokens"] for u in (first, again, salted)] == [0, cached, 0]
    assert counter(client, "vllm:prefix_cache_hits_total") - hits == cached
    client.post("/reset_prefix_cache")
    after = client.post("/v1/completions", json=body).json()["usage"]
    assert after["prompt_tokens_details"]["cached_tokens"] == 0


def test_tokenize_counts_what_usage_counts(client: httpx.Client) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Count to 12, bitte schön."}]
    counted = client.post("/tokenize", json={"messages": messages}).json()
    usage = client.post("/v1/chat/completions", json={"messages": messages, "max_tokens": 1}).json()["usage"]
    assert counted["count"] == len(counted["tokens"]) == usage["prompt_tokens"]
    text = client.post("/detokenize", json={"tokens": counted["tokens"]}).json()["prompt"]
    assert "Count to 12, bitte schön." in text


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "words"),
    [
        ("/v1/completions", {"max_tokens": 3}, 400, "prompt", "required"),
        ("/v1/completions", {"prompt": "x", "max_tokens": "many"}, 400, "max_tokens", "integer"),
        ("/v1/completions", {"prompt": "x", "temperature": -1}, 400, "temperature", "greater than or equal"),
        ("/v1/completions", {"prompt": "x", "model": "other"}, 404, "model", "'other' does not exist"),
        ("/v1/completions", {"prompt": [99999]}, 400, "prompt", "outside 0..2047"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 5000}, 400, "max_tokens", "maximum context length is 4096"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages", "at least 1"),
        ("/tokenize", {}, 400, "prompt", "either prompt or messages"),
        ("/tokenize", {"messages": [{"role": "king", "content": "x"}]}, 400, "messages", "'system'"),
        ("/v1/chat/completions", {**CHAT, "tool_choice": "required"}, 400, "tool_choice", "needs tools"),
        ("/v1/chat/completions", {**CHAT, **TOOLS, "tool_choice": named("g")}, 400, "tool_choice", "the tools are f"),
        ("/v1/chat/completions", {**CHAT, "tools": [tool(strict=True)]}, 400, "tools", "constrained decoding"),
        ("/v1/chat/completions", {**CHAT, "tools": [{"type": "custom"}]}, 400, "tools", "'function'"),
        (
            "/v1/chat/completions",
            {**CHAT, "parallel_tool_calls": False},
            400,
            "parallel_tool_calls",
            "constrained decoding",
        ),
        ("/v1/chat/completions", {**CHAT, "response_format": {"type": "regex"}}, 400, "response_format", "'text'"),
        (
            "/v1/chat/completions",
            {**CHAT, "response_format": {"type": "json_schema"}},
            400,
            "response_format",
            "schema",
        ),
        ("/v1/chat/completions", {"messages": [BAD_CALL]}, 400, "messages", "not a JSON object"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages", "surrogate"),
    ],
)
def test_bad_requests_get_openai_shaped_errors(
    client: httpx.Client, path: str, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    response = client.post(path, content=json.dumps(body))  # httpx itself refuses half a surrogate pair
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, status, param)
    assert words in error["message"]


def test_tools_and_effort_are_part_of_what_tokenize_counts(client: httpx.Client) -> None:
    bodies = [CHAT, {**CHAT, **TOOLS}, {**CHAT, "reasoning_effort": "low"}]
    counts = [client.post("/tokenize", json=body).json()["count"] for body in bodies]
    used = [client.post("/v1/chat/completions", json={**body, "max_tokens": 1}).json()["usage"] for body in bodies]
    assert counts == [usage["prompt_tokens"] for usage in used]
    assert counts[1] > counts[0] > counts[2]


def test_a_body_that_is_not_json_is_told_so(client: httpx.Client) -> None:
    response = client.post("/v1/completions", content=b"{")
    assert response.status_code == 400
    assert "not JSON" in response.json()["error"]["message"]


def test_a_stop_string_ends_the_text_before_it(client: httpx.Client) -> None:
    body = {"prompt": "The baker counted", "max_tokens": 12, "temperature": 0}
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    stop = text[5:9]
    stopped = client.post("/v1/completions", json={**body, "stop": [stop]}).json()["choices"][0]
    assert stopped["text"] == text[: text.index(stop)]
    assert stopped["finish_reason"] == "stop"


def test_logprobs_name_tokens_by_id_on_request(client: httpx.Client) -> None:
    """By their text they are ambiguous: bytes of one character, and special tokens."""
    body = {"prompt": "The", "max_tokens": 3, "temperature": 0, "logprobs": 20}
    by_text, by_id = (
        client.post("/v1/completions", json=body | {"return_tokens_as_token_ids": on}).json()["choices"][0]["logprobs"]
        for on in (False, True)
    )
    assert by_id["token_logprobs"] == by_text["token_logprobs"]
    for token, text, top in zip(by_id["tokens"], by_text["tokens"], by_id["top_logprobs"], strict=True):
        name, _, number = token.partition(":")
        assert name == "token_id"
        assert client.post("/detokenize", json={"tokens": [int(number)]}).json()["prompt"] == text
        assert len(top) == 20


def test_logprobs_name_the_chosen_token_first_under_greedy(client: httpx.Client) -> None:
    body = {"prompt": "The", "max_tokens": 3, "temperature": 0, "logprobs": 2}
    logprobs = client.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
        assert max(top, key=top.get) == token
        assert top[token] == value <= 0


def test_a_client_that_goes_away_frees_its_blocks(serve: str, client: httpx.Client) -> None:
    parts = urlsplit(serve)
    body = json.dumps({"prompt": "go " * 400, "max_tokens": 2000, "stream": True, "ignore_eos": True}).encode()
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        connection.sendall(head + body)
        assert connection.recv(100)
    deadline = time.monotonic() + 30
    while counter(client, "vllm:num_requests_running") > 0:
        assert time.monotonic() < deadline, "the request still runs"
        time.sleep(0.05)
    assert counter(client, "vllm:kv_cache_usage_perc") == 0
