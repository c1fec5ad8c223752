"""A real serve behind a real proxy process: its identity is its own, its replies are broken, both are stopped."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from ds4bench.errors import TargetError
from ds4bench.targets.attach import AttachTarget
from ds4bench.trust.broken_serve import ProxiedTarget


def ask(url: str, model: str) -> dict[str, object]:
    reply = httpx.post(f"{url}/v1/completions", json={"model": model, "prompt": "One two", "max_tokens": 2}, timeout=30)
    return dict(reply.raise_for_status().json())


def get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=30)


@pytest.mark.integration
async def test_replies_come_through_the_proxy_and_identity_does_not(serve: str, tmp_path: Path) -> None:
    target = ProxiedTarget(AttachTarget(serve), ["other-model", "no-usage"], tmp_path / "proxy.log")
    endpoint = await target.start(lambda _: None)
    try:
        assert endpoint.base_url != serve and target.alive()
        broken, whole = ask(endpoint.base_url, endpoint.model), ask(serve, endpoint.model)
        assert broken["model"] == f"{endpoint.model}-next" and whole["model"] == endpoint.model
        assert "usage" in whole and "usage" not in broken
        version = get(f"{endpoint.base_url}/version").json()
        assert version == get(f"{serve}/version").json() and version["faults"] == []
    finally:
        await target.stop()
    assert not target.alive()
    with pytest.raises(httpx.ConnectError):
        get(f"{endpoint.base_url}/version")
    assert get(f"{serve}/health").status_code == 200


@pytest.mark.integration
async def test_a_proxy_that_does_not_start_says_why(serve: str, tmp_path: Path) -> None:
    target = ProxiedTarget(AttachTarget(serve), ["nonsense"], tmp_path / "proxy.log")
    try:
        with pytest.raises(TargetError, match="nonsense"):
            await target.start(lambda _: None)
    finally:
        await target.stop()
