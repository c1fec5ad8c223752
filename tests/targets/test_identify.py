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


CACHE = (
    'vllm:cache_config_info{block_size="256",cache_dtype="auto",enable_prefix_caching="%s",engine="%d",'
    'num_gpu_blocks="9"} 1.0\n'
)
SPECULATION = """# TYPE vllm:spec_decode_num_drafts counter
vllm:spec_decode_num_drafts_total{engine="0"} 0.0
# TYPE vllm:spec_decode_num_accepted_tokens_per_pos counter
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 0.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="1"} 0.0
"""


@pytest.mark.parametrize(
    ("metrics", "prefix_caching", "speculative", "speculation"),
    [
        (CACHE % ("True", 0) + SPECULATION, True, "unknown-2", "unknown-2"),
        (CACHE % ("False", 0), False, None, "off"),  # the series are there only where speculation is configured
        (CACHE % ("True", 0) + CACHE % ("True", 1), True, None, "off"),
        (CACHE % ("True", 0) + CACHE % ("False", 1), None, None, None),  # two engines behind one port that disagree
        ("vllm:num_requests_running 0\n", None, None, None),
        ("vllm:num_requests_running 0\n" + SPECULATION, None, "unknown-2", "unknown-2"),
    ],
)
async def test_vllms_metrics_tell_of_its_caching_and_speculation(
    serve: Serve, metrics: str, prefix_caching: bool | None, speculative: str | None, speculation: str | None
) -> None:
    found = (await ask(serve({"/v1/models": models("m", owned_by="vllm"), "/metrics": metrics}))).fingerprint
    assert (found.prefix_caching, found.speculative) == (prefix_caching, speculative)
    assert found.speculation == speculation


async def test_an_attached_vllm_tells_what_it_serves_but_nothing_that_changes_from_launch_to_launch(
    serve: Serve,
) -> None:
    card = models("m", root="/models/flash", max_model_len=4096, parent=None)
    found = (await ask(serve({"/v1/models": card, "/metrics": CACHE % ("True", 0)}))).fingerprint
    assert found.flags == {"root": "/models/flash", "max_model_len": 4096, "block_size": "256", "cache_dtype": "auto"}


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
