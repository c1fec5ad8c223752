"""Who is behind a URL: engine, version, model, from what the serve itself says."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ds4bench.client.control import ControlClient
from ds4bench.client.prometheus import labels_of, parse_counters
from ds4bench.core import EMBEDDED_ENGINE, UNKNOWN_METHOD, Fingerprint
from ds4bench.errors import TargetError
from ds4bench.targets.dialect import Dialect, dialect_of


@dataclass(frozen=True)
class Identity:
    """What a serve says of itself, and ``because`` of what its engine is known.

    ``max_model_len`` in tokens, None when it does not tell.
    """

    model: str
    dialect: Dialect
    fingerprint: Fingerprint
    max_model_len: int | None
    because: str = ""


async def identify(
    control: ControlClient, *, model: str | None = None, hardware: Mapping[str, Any] | None = None
) -> Identity:
    """Ask ``/v1/models``, ``/version``, ``/metrics`` and the engine's own page, and build the fingerprint.

    ``hardware`` is this machine's; it is recorded only when the serve runs here. Raises TargetError when the
    serve cannot be reached, lists no model, or lists several and ``model`` does not choose one.
    """
    card = _choose(await control.get_json("/v1/models"), model, control.base_url)
    local = is_local(control.base_url)
    where = dict(hardware or {}) if local else {}
    version = _mapping(await control.get_json("/version"))
    engine, because = await _engine(control, version, card)
    told = await _told_by_engine(control, engine, version, card)
    fingerprint = Fingerprint(
        engine=str(version["engine"]) if engine == "embedded" else engine,
        model=card["id"],
        hardware=where,
        local=local,
        **told,
    )
    length = card.get("max_model_len")
    length = length if isinstance(length, int) else None
    return Identity(card["id"], dialect_of(engine), fingerprint, length, because)


def is_local(base_url: str) -> bool:
    """Whether the URL names this machine: a loopback address, ``localhost``, or this host's own name."""
    host = (urlsplit(base_url).hostname or "").lower()
    if host in ("localhost", socket.gethostname().lower()):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _choose(listing: Any, model: str | None, base_url: str) -> dict[str, Any]:
    data = _mapping(listing).get("data")
    cards = {c["id"]: c for c in data if isinstance(c, dict) and "id" in c} if isinstance(data, list) else {}
    if model is not None and (model in cards or not cards):
        return dict(cards.get(model, {"id": model}))
    names = ", ".join(sorted(cards)) or "none"
    if model is not None:
        raise TargetError(f"{base_url} does not serve the model {model!r}; it has: {names}")
    if not cards:
        raise TargetError(f"{base_url}/v1/models lists no model; is it an OpenAI-compatible serve? Or give --model")
    if len(cards) > 1:
        raise TargetError(f"{base_url} serves several models; choose one with --model: {names}")
    return dict(next(iter(cards.values())))


async def _engine(control: ControlClient, version: Mapping[str, Any], card: Mapping[str, Any]) -> tuple[str, str]:
    """(name in the dialect table, why). Own words first, then metric names, then who owns the model card."""
    if version.get("engine") == EMBEDDED_ENGINE:
        return "embedded", "/version says so"
    if (urlsplit(control.base_url).hostname or "").endswith("deepseek.com"):
        return "hosted-deepseek", "by its address"
    metrics = await control.metrics_text() or ""
    owner = str(card.get("owned_by", ""))
    for engine in ("vllm", "sglang"):
        if f"\n{engine}:" in f"\n{metrics}":
            return engine, f"/metrics has counters of {engine}"
        if owner == engine:
            return engine, f"/v1/models says that {engine} owns the model"
    server = await control.server_header("/v1/models")
    said = f"; its Server header says {server}" if server else ""
    return "openai", f"neither /version, /metrics nor /v1/models names an engine{said}"


async def _told_by_engine(
    control: ControlClient, engine: str, version: Mapping[str, Any], card: Mapping[str, Any]
) -> dict[str, Any]:
    """Fields of the fingerprint that only this engine tells."""
    if engine == "embedded":
        return {
            "engine_version": version.get("version"),
            "model_revision": version.get("model_revision"),
            "weights": version.get("weights"),
            "prefix_caching": version.get("prefix_caching"),
            "speculative": version.get("speculative"),
            "flags": dict(version.get("flags") or {}),
            "faults": list(version.get("faults") or []),
        }
    if engine == "sglang":
        return _told_by_sglang(await _sglang_info(control))
    told = version.get("version")
    said = {"engine_version": told if isinstance(told, str) else None}
    return said | _told_by_vllm(await control.metrics_text() or "", card) if engine == "vllm" else said


_VLLM_CARD = ("root", "max_model_len")
_VLLM_CACHE = ("block_size", "cache_dtype")
"""The number of blocks is left out: it follows from the memory that a launch finds, and resumes must find the same flags."""


def _told_by_vllm(metrics: str, card: Mapping[str, Any]) -> dict[str, Any]:
    """By its model card, its ``cache_config_info`` and the counters that it has only where speculation is configured.
    They tell how many tokens are drafted, but not by what: ``unknown-2``."""
    caches = labels_of(metrics, "vllm:cache_config_info")  # one an engine
    counters = parse_counters(metrics)
    depth = sum(name.startswith("vllm:spec_decode_num_accepted_tokens_per_pos_total{") for name in counters)
    speculates = "vllm:spec_decode_num_drafts_total" in counters
    caching = {cache.get("enable_prefix_caching") for cache in caches}
    flags = {name: card[name] for name in _VLLM_CARD if card.get(name) is not None}
    return {
        "prefix_caching": {"True": True, "False": False}.get(caching.pop() or "") if len(caching) == 1 else None,
        "speculative": f"{UNKNOWN_METHOD}{depth or '?'}" if speculates else None,
        "flags": flags | {name: caches[0][name] for name in _VLLM_CACHE if caches and name in caches[0]},
    }


async def _sglang_info(control: ControlClient) -> Mapping[str, Any]:
    for path in ("/server_info", "/get_server_info"):  # the second is the older name
        info = _mapping(await control.get_json(path))
        if info:
            return info
    return {}


_SGLANG_FLAGS = ("tp_size", "dp_size", "chunked_prefill_size", "attention_backend", "kv_cache_dtype", "quantization")


def _told_by_sglang(info: Mapping[str, Any]) -> dict[str, Any]:
    off = info.get("disable_radix_cache")
    return {
        "engine_version": info.get("version"),
        "model_revision": info.get("revision"),
        "prefix_caching": None if off is None else not off,
        "speculative": info.get("speculative_algorithm"),
        "flags": {name: info[name] for name in _SGLANG_FLAGS if name in info},
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
