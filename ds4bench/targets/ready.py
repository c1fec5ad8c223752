"""The only proof that a serve is ready: a token of a real completion."""

from __future__ import annotations

from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError


async def first_token(control: ControlClient, model: str) -> None:
    """Ask for one token. Raises TargetError with the serve's own words when none comes back.

    Prefers the chat endpoint, which every engine has, and falls back to completions for a base model. The
    prompt is unlike any workload's, so nothing that is measured later can find it in a cache.
    """
    words = "Say yes."
    chat: dict[str, Any] = {"messages": [{"role": "user", "content": words}]}
    said = await _try(control, "/v1/chat/completions", {"model": model, "max_tokens": 1, **chat})
    if said is not None and said[0] in (400, 404, 405):
        completions = await _try(control, "/v1/completions", {"model": model, "max_tokens": 1, "prompt": words})
        said = said if completions is not None else None  # the chat endpoint's reason is the telling one
    if said is not None:
        status, why = said
        raise TargetError(f"{control.base_url} gives no token for model {model!r}: HTTP {status}: {why}")


async def _try(control: ControlClient, path: str, body: dict[str, Any]) -> tuple[int, str] | None:
    """None when a token came back, else (status, reason)."""
    status, reply = await control.post_json(path, body)
    if status == 200:
        usage = reply.get("usage") if isinstance(reply, dict) else None
        made = usage.get("completion_tokens", 0) if isinstance(usage, dict) else 0
        return None if made >= 1 else (status, "the reply's usage counts no completion token")
    return status, _reason(reply)


def _reason(reply: Any) -> str:
    if isinstance(reply, dict):
        error = reply.get("error") or reply.get("detail") or reply  # OpenAI's form, FastAPI's own, the bare message
        message = error.get("message") if isinstance(error, dict) else error
        if message:
            return str(message)[:300]
    return "no reason given; wrong key or path?"
