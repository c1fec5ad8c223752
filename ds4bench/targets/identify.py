"""Who is at the other end: engine, model and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ds4bench.client.control import ControlClient
from ds4bench.core import Fingerprint
from ds4bench.errors import TargetError
from ds4bench.targets.base import Endpoint
from ds4bench.targets.dialect import DIALECTS, EMBEDDED, OPENAI, SGLANG, VLLM, Dialect

_PROBE_TOKENS = 1


@dataclass(frozen=True)
class _Card:
    """The served model."""

    model: str
    max_model_len: int | None
    owned_by: str | None
    revision: str | None


async def identify(
    control: ControlClient, model: str | None, *, local: bool, hardware: dict[str, Any], headers: dict[str, str]
) -> Endpoint:
    """Find out who answers at ``control.base_url``. Raises TargetError when it is unreachable or the model is not there.

    ``hardware`` is this machine's; it enters the fingerprint only of a ``local`` serve.
    """
    card = _pick(await control.get_json("/v1/models"), model, control.base_url)
    version = await control.get_json("/version")
    version = version if isinstance(version, dict) else {}
    dialect = await _dialect(control, version, card)
    fingerprint = Fingerprint(
        engine=dialect.engine,
        engine_version=_text(version.get("version")),
        model=card.model,
        model_revision=_text(version.get("model_revision")) or card.revision,
        weights=_text(version.get("weights")),
        prefix_caching=version.get("prefix_caching"),
        speculative=_text(version.get("speculative")),
        flags=version.get("flags") or {},
        faults=list(version.get("faults") or []),
        hardware=hardware if local else {},
        local=local,
    )
    return Endpoint(control.base_url, card.model, dialect, fingerprint, card.max_model_len, headers)


async def token_comes_back(control: ControlClient, endpoint: Endpoint) -> None:
    """Ask for one token. Raises TargetError if none comes: a healthy ``/health`` says nothing about the model."""
    body = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "Say yes."}],
        "max_tokens": _PROBE_TOKENS,
        "temperature": 0,
    }
    status, reply = await control.post_json("/v1/chat/completions", body)
    if status != 200 or not isinstance(reply, dict) or not reply.get("choices"):
        reason = " ".join(str(reply).split())[:300]
        raise TargetError(f"{endpoint.base_url} answers, but not with a token: HTTP {status}: {reason}")


def _pick(page: Any, wanted: str | None, url: str) -> _Card:
    cards = page.get("data") if isinstance(page, dict) else None
    if not cards:
        raise TargetError(f"{url}/v1/models lists no model: is {url} an OpenAI-compatible serve?")
    names = [str(card.get("id")) for card in cards]
    if wanted is None and len(names) > 1:
        raise TargetError(f"{url} serves {', '.join(names)}: choose one with --model")
    if wanted is not None and wanted not in names:
        raise TargetError(f"{url} does not serve {wanted!r}; it has {', '.join(names)}")
    card = cards[names.index(wanted) if wanted is not None else 0]
    return _Card(str(card["id"]), card.get("max_model_len"), _text(card.get("owned_by")), _text(card.get("root")))


async def _dialect(control: ControlClient, version: dict[str, Any], card: _Card) -> Dialect:
    if version.get("engine") == EMBEDDED:
        return DIALECTS[EMBEDDED]
    metrics = await control.metrics_text() or ""
    for engine, prefix in ((VLLM, "vllm:"), (SGLANG, "sglang:")):
        if prefix in metrics or card.owned_by == engine:
            return DIALECTS[engine]
    return DIALECTS[OPENAI]


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
