"""Who is behind a URL, from real pages over loopback."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ds4bench.client.control import ControlClient
from ds4bench.errors import TargetError
from ds4bench.targets.identify import Identity, identify, is_local

Serve = Callable[[dict[str, object]], str]


def models(*names: str, **card: object) -> dict[str, object]:
    return {"object": "list", "data": [{"id": name, **card} for name in names]}


async def ask(url: str, model: str | None = None) -> Identity:
    control = ControlClient(url)
    try:
        return await identify(control, model=model, hardware={"cpu": "this one"})
    finally:
        await control.close()


async def test_our_own_engine_tells_everything(serve: Serve) -> None:
    version = {
        "version": "0.1.0", "engine": "ds4bench-embedded", "weights": "random", "model_revision": "r1",
        "prefix_caching": True, "speculative": None, "flags": {"threads": 2}, "faults": ["slow-prefill:20%"],
    }  # fmt: skip
    url = serve({"/v1/models": models("ds4-tiny", max_model_len=8192), "/version": version, "/metrics": "vllm:x 1\n"})
    found = await ask(url)
    fingerprint = found.fingerprint
    assert (found.dialect.engine, fingerprint.engine, found.max_model_len) == ("embedded", "ds4bench-embedded", 8192)
    assert (fingerprint.weights, fingerprint.model_revision, fingerprint.prefix_caching) == ("random", "r1", True)
    assert fingerprint.faults == ["slow-prefill:20%"]
    assert fingerprint.flags == {"threads": 2}
    assert fingerprint.local
    assert fingerprint.hardware == {"cpu": "this one"}


async def test_vllm_is_known_by_its_metrics(serve: Serve) -> None:
    metrics = "# HELP vllm:num_requests_running x\nvllm:num_requests_running 0\n"
    url = serve({"/v1/models": models("m", max_model_len=4096), "/version": {"version": "0.33.0"}, "/metrics": metrics})
    found = await ask(url)
    assert (found.dialect.engine, found.fingerprint.engine_version) == ("vllm", "0.33.0")


async def test_sglang_is_known_by_its_model_card_and_tells_its_flags(serve: Serve) -> None:
    info = {
        "version": "0.5.23",
        "disable_radix_cache": True,
        "tp_size": 2,
        "speculative_algorithm": "EAGLE",
        "api_key": "s3",
    }
    found = await ask(serve({"/v1/models": models("m", owned_by="sglang"), "/server_info": info}))
    fingerprint = found.fingerprint
    assert (found.dialect.engine, fingerprint.engine_version, fingerprint.speculative) == ("sglang", "0.5.23", "EAGLE")
    assert fingerprint.prefix_caching is False
    assert fingerprint.flags == {"tp_size": 2}


async def test_an_unknown_engine_is_plain_openai_with_nothing_made_up(serve: Serve) -> None:
    found = await ask(serve({"/v1/models": models("m")}))
    assert found.dialect.engine == "openai"
    assert found.fingerprint.prefix_caching is None
    assert found.fingerprint.engine_version is None


async def test_several_models_need_a_choice(serve: Serve) -> None:
    url = serve({"/v1/models": models("a", "b")})
    with pytest.raises(TargetError, match="--model: a, b"):
        await ask(url)
    assert (await ask(url, "b")).model == "b"


async def test_a_model_that_is_not_served_is_refused_with_what_there_is(serve: Serve) -> None:
    with pytest.raises(TargetError, match="does not serve the model 'c'; it has: a"):
        await ask(serve({"/v1/models": models("a")}), "c")


async def test_a_page_without_models_is_no_serve(serve: Serve) -> None:
    with pytest.raises(TargetError, match="lists no model"):
        await ask(serve({"/v1/models": "hello"}))


@pytest.mark.parametrize(
    ("url", "local"),
    [("http://127.0.0.1:1", True), ("http://[::1]:1", True), ("http://localhost", True), ("http://10.0.0.9:1", False)],
)
def test_only_this_machine_is_local(url: str, local: bool) -> None:
    assert is_local(url) is local
