"""The stand-in for the hosted API with a real model behind it.

Requests go on to the embedded engine at URL in its own dialect, its replies come back in the API's: ``thinking`` becomes
``chat_template_kwargs``, ``reasoning`` becomes ``reasoning_content``, cached tokens the two cache-hit fields, and a stream's
usage stands in the chunk with the finish_reason. What the API ignores does not reach the engine.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
from starlette.responses import JSONResponse, Response, StreamingResponse

from tests.targets.hosted_stand_in import HostedApi, thinks

Json = dict[str, Any]

_IGNORED = (
    "model",
    "thinking",
    "reasoning_effort",
    "chat_template_kwargs",
    "cache_salt",
    "stream_options",
    "ignore_eos",
)


class EngineBehind(HostedApi):
    """The API, answered by the serve at ``url``."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.engine = httpx.AsyncClient(base_url=url, timeout=None)
        self.engine_model = ""

    async def answer(self, body: Json) -> Response:
        asked = await self._asked(body)
        if body.get("stream"):
            return StreamingResponse(self._events(asked), media_type="text/event-stream")
        answer = await self.engine.post("/v1/chat/completions", json=asked)
        return JSONResponse(self._told(answer.json()) if answer.is_success else answer.json(), answer.status_code)

    async def _asked(self, body: Json) -> Json:
        if not self.engine_model:
            self.engine_model = (await self.engine.get("/v1/models")).json()["data"][0]["id"]
        effort = {"reasoning_effort": body["reasoning_effort"]} if "reasoning_effort" in body else {}
        kwargs = {"thinking": thinks(body), **(effort if thinks(body) else {})}
        asked = {key: value for key, value in body.items() if key not in _IGNORED}
        usage = {"stream_options": {"include_usage": True}} if body.get("stream") else {}
        return {**asked, **usage, "model": self.engine_model, "chat_template_kwargs": kwargs}

    async def _events(self, asked: Json) -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n"
        last: Json | None = None
        async with self.engine.stream("POST", "/v1/chat/completions", json=asked) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if not chunk["choices"]:  # the engine's usage comes after its last words
                    assert last is not None
                    last["usage"] = chunk["usage"]
                elif chunk["choices"][0].get("finish_reason"):
                    last = chunk
                else:
                    yield self._event(chunk)
        assert last is not None
        yield self._event(last)
        yield b"data: [DONE]\n\n"

    def _event(self, chunk: Json) -> bytes:
        return b"data: " + json.dumps(self._told(chunk)).encode() + b"\n\n"

    def _told(self, reply: Json) -> Json:
        for choice in reply["choices"]:
            said = choice.get("message") or choice["delta"]
            if "reasoning" in said:
                said["reasoning_content"] = said.pop("reasoning")
        usage = reply.get("usage")
        return {**reply, **self._head(reply["object"]), "usage": _usage(usage) if usage else None}


def _usage(usage: Json) -> Json:
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    told = {key: value for key, value in usage.items() if key != "prompt_tokens_details"}
    misses = usage["prompt_tokens"] - cached
    return {**told, "prompt_cache_hit_tokens": cached, "prompt_cache_miss_tokens": misses}
