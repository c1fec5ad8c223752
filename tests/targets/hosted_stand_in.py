"""A faithful stand-in for the hosted DeepSeek API, a real server process: its dialect, its refusals, its comments.

What it has of the real one: keys (401), balance (402), rate limit (429 with Retry-After), the ``thinking`` object,
``chat_template_kwargs`` ignored, ``reasoning_content``, cache-hit fields by prefixes of 64 tokens, SSE keep-alive comments,
the only usage of a stream in the chunk with the finish_reason, ``system_fingerprint``; no /health, /version, /metrics and
/tokenize. ``python hosted_stand_in.py PORT_FILE`` serves; ``POST /control`` (not in the API) sets what it does, ``GET /log``
tells what came. ``refuse`` requests are refused for their rate once ``refuse_from`` were answered (the first of a run shows
that the API answers); a key or a balance ends after so many answers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

KEY = "sk-stand-in-0123456789"
BLOCK = 64
FOR_GOOD = 10**9
"""So many refusals never end."""
NEW_STATE: dict[str, Any] = {
    "refuse": 0,
    "refuse_from": 1,
    "retry_after": "0.05",
    "no_balance_after": None,
    "key_ends_after": None,
    "served": "deepseek-v4-flash",
}


class HostedApi:
    """The API's state and its pages."""

    def __init__(self) -> None:
        self.state = dict(NEW_STATE)
        self.log: list[dict[str, Any]] = []
        self.seen: set[tuple[str, ...]] = set()
        self.answered = 0

    def app(self) -> Starlette:
        """The pages."""
        return Starlette(
            routes=[
                Route("/v1/models", self.models),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
                Route("/control", self.control, methods=["POST"]),
                Route("/log", lambda _: JSONResponse(self.log)),
            ]
        )

    async def control(self, request: Request) -> Response:
        """Begin anew with these settings."""
        self.state = NEW_STATE | await request.json()
        self.log, self.seen, self.answered = [], set(), 0
        return JSONResponse(self.state)

    async def models(self, request: Request) -> Response:
        """The listing, for a valid key."""
        if not _has_key(request):
            return _error(401, "Authentication Fails (no such user)", "authentication_error")
        cards = [
            {"id": name, "object": "model", "owned_by": "deepseek"} for name in ("deepseek-v4-flash", "deepseek-v4-pro")
        ]
        return JSONResponse({"object": "list", "data": cards})

    async def chat(self, request: Request) -> Response:
        """A completion, streamed or not."""
        body = await request.json()
        refusal = self._refusal(request)
        self.log.append({"status": refusal.status_code if refusal else 200, "body": body})
        if refusal is not None:
            return refusal
        self.answered += 1
        return await self.answer(body)

    async def answer(self, body: dict[str, Any]) -> Response:
        """The same few words every time."""
        words = ["the ", "answer ", "is ", "four "][: body.get("max_tokens", 4)]
        reasoning = ["two and two ", "make four "] if thinks(body) else []
        usage = self._usage(body, len(words) + len(reasoning), len(reasoning))
        if body.get("stream"):
            return StreamingResponse(self._stream(words, reasoning, usage), media_type="text/event-stream")
        message = {"role": "assistant", "content": "".join(words), "reasoning_content": "".join(reasoning) or None}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        return JSONResponse({**self._head("chat.completion"), "choices": [choice], "usage": usage})

    def _refusal(self, request: Request) -> JSONResponse | None:
        if not _has_key(request):
            return _error(401, "Authentication Fails (no such user)", "authentication_error")
        ends = self.state["key_ends_after"]
        if ends is not None and self.answered >= ends:
            return _error(401, "Authentication Fails (key is deleted)", "authentication_error")
        limit = self.state["no_balance_after"]
        if limit is not None and self.answered >= limit:
            return _error(402, "Insufficient Balance", "unknown_error")
        if self.answered >= self.state["refuse_from"] and self.state["refuse"] > 0:
            self.state["refuse"] -= 1
            wait = self.state["retry_after"]
            return _error(429, "Rate limit reached", "rate_limit_error", {"Retry-After": wait} if wait else {})
        return None

    async def _stream(self, words: list[str], reasoning: list[str], usage: dict[str, Any]) -> AsyncIterator[bytes]:
        yield b": keep-alive\n\n"
        await asyncio.sleep(0.1)
        yield self._chunk({"role": "assistant", "content": ""})
        for field, texts in (("reasoning_content", reasoning), ("content", words)):
            for text in texts:
                await asyncio.sleep(0.02)
                yield self._chunk({field: text})
            yield b": keep-alive\n\n"
        yield self._chunk({"content": ""}, "stop", usage)
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish: str | None = None, usage: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return (
            b"data: "
            + json.dumps({**self._head("chat.completion.chunk"), "choices": [choice], "usage": usage}).encode()
            + b"\n\n"
        )

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": "stand-in",
            "object": kind,
            "created": 1,
            "model": self.state["served"],
            "system_fingerprint": "fp_stand_in",
        }

    def _usage(self, body: dict[str, Any], made: int, reasoned: int) -> dict[str, Any]:
        text = "".join(str(message["content"]) for message in body["messages"])
        tokens = [text[start : start + 4] for start in range(0, len(text), 4)]
        hit = 0
        for end in range(BLOCK, len(tokens) + 1, BLOCK):
            if tuple(tokens[:end]) in self.seen:
                hit = end
            self.seen.add(tuple(tokens[:end]))
        return {
            "prompt_tokens": len(tokens),
            "completion_tokens": made,
            "total_tokens": len(tokens) + made,
            "prompt_cache_hit_tokens": hit,
            "prompt_cache_miss_tokens": len(tokens) - hit,
            "completion_tokens_details": {"reasoning_tokens": reasoned},
        }


def thinks(body: dict[str, Any]) -> bool:
    """Whether the request lets the model think: the API's default, and ``chat_template_kwargs`` are ignored."""
    return (body.get("thinking") or {"type": "enabled"})["type"] == "enabled"


def _has_key(request: Request) -> bool:
    return request.headers.get("authorization") == f"Bearer {KEY}"


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
    error = {"message": message, "type": kind, "param": None, "code": "invalid_request_error"}
    return JSONResponse({"error": error}, status_code=status, headers=headers)


if __name__ == "__main__":
    listener = socket.create_server(("127.0.0.1", 0))
    Path(sys.argv[1]).write_text(str(listener.getsockname()[1]))
    uvicorn.Server(uvicorn.Config(HostedApi().app(), log_level="error")).run(sockets=[listener])
