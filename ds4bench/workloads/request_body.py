"""Request bodies from a gate's ``request``: the fields that every workload sends the same way."""

from __future__ import annotations

import hashlib
from typing import Any

from ds4bench.spec.gate import RequestSpec
from ds4bench.targets.base import Endpoint

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def template_fields(spec: RequestSpec, endpoint: Endpoint) -> dict[str, Any]:
    """The body fields that change how a prompt is rendered, hence its tokens."""
    body: dict[str, Any] = {"model": endpoint.model}
    if spec.endpoint == "chat":
        body |= endpoint.dialect.thinking_body(spec.thinking)
    return body


def prompt_fields(spec: RequestSpec, text: str) -> dict[str, Any]:
    """The prompt as one user message, or as plain text."""
    return {"messages": [{"role": "user", "content": text}]} if spec.endpoint == "chat" else {"prompt": text}


def sampling_fields(spec: RequestSpec, endpoint: Endpoint) -> dict[str, Any]:
    """Length, temperature and streaming."""
    body: dict[str, Any] = {
        "max_tokens": spec.max_tokens,
        "temperature": spec.temperature,
        "stream": True,
        "stream_options": endpoint.dialect.stream_options(),
    }
    if spec.ignore_eos:
        body["ignore_eos"] = True
    return body


def salt_of(run_id: str, name: str) -> str:
    """Sixteen hex digits that no other ``name`` of any run shares."""
    return hashlib.sha256(f"{run_id} {name}".encode()).hexdigest()[:16]
