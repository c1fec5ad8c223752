"""Attaching to a serve that somebody else started."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ds4bench.errors import TargetError
from ds4bench.targets.attach import AttachTarget

Serve = Callable[[dict[str, object]], str]
MODELS = {"data": [{"id": "m", "max_model_len": 100}]}


def token(body: object, request: Request) -> Response:
    return JSONResponse({"choices": [{}], "usage": {"prompt_tokens": 3, "completion_tokens": 1}})


async def test_attaching_ends_with_a_token(serve: Serve) -> None:
    asked: list[object] = []

    def answer(body: object, request: Request) -> Response:
        asked.append(body)
        return token(body, request)

    url = serve({"/v1/models": MODELS, "/v1/chat/completions": answer})
    lines: list[str] = []
    endpoint = await AttachTarget(url + "/v1/").start(lines.append)
    assert (endpoint.base_url, endpoint.model, endpoint.max_model_len) == (url, "m", 100)
    assert len(asked) == 1
    assert lines


async def test_a_base_model_without_a_chat_template_gives_its_token_by_completions(serve: Serve) -> None:
    def no_template(body: object, request: Request) -> Response:
        return JSONResponse({"error": {"message": "no chat template"}}, status_code=400)

    url = serve({"/v1/models": MODELS, "/v1/chat/completions": no_template, "/v1/completions": token})
    assert (await AttachTarget(url).start(str)).model == "m"


async def test_a_serve_that_gives_no_token_is_refused_in_its_own_words(serve: Serve) -> None:
    def broken(body: object, request: Request) -> Response:
        return JSONResponse({"error": {"message": "CUDA error: out of memory"}}, status_code=500)

    url = serve({"/v1/models": MODELS, "/v1/chat/completions": broken})
    with pytest.raises(TargetError, match="HTTP 500: CUDA error: out of memory"):
        await AttachTarget(url).start(str)


async def test_a_reply_without_a_token_is_not_ready(serve: Serve) -> None:
    def empty(body: object, request: Request) -> Response:
        return JSONResponse({"choices": [{}], "usage": {"completion_tokens": 0}})

    with pytest.raises(TargetError, match="no completion token"):
        await AttachTarget(serve({"/v1/models": MODELS, "/v1/chat/completions": empty})).start(str)


async def test_the_key_is_sent_and_never_shown(serve: Serve) -> None:
    seen: list[str | None] = []

    def answer(body: object, request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return token(body, request)

    url = serve({"/v1/models": MODELS, "/v1/chat/completions": answer})
    endpoint = await AttachTarget(url, None, "sk-hidden").start(str)
    assert seen == ["Bearer sk-hidden"]
    assert "sk-hidden" not in repr(endpoint)


async def test_nobody_there_is_a_plain_error() -> None:
    with pytest.raises(TargetError, match="cannot be reached"):
        await AttachTarget("http://127.0.0.1:9").start(str)


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://host", "http://user:secret@host"])
def test_what_is_no_address_is_refused_without_repeating_a_password(url: str) -> None:
    with pytest.raises(TargetError) as raised:
        AttachTarget(url)
    assert "secret" not in str(raised.value)


async def test_attaching_says_what_it_found_and_why(serve: Serve) -> None:
    pages: dict[str, object] = {"/v1/models": MODELS, "/v1/chat/completions": token, "/version": {"version": "0.33.0"}}
    lines: list[str] = []
    await AttachTarget(serve(pages | {"/metrics": "vllm:prompt_tokens_total 3\n"})).start(lines.append)
    assert "found vllm 0.33.0 (/metrics has counters of vllm), serving m; waiting for a token" in lines
    await AttachTarget(serve({k: v for k, v in pages.items() if k != "/version"})).start(lines.append)
    assert "found openai of unknown version (neither /version, /metrics nor /v1/models names an engine" in lines[-1]
    assert "its Server header says uvicorn" in lines[-1]
