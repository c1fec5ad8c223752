"""A serve that speculates, over real sockets: what it says of itself, its counters, and several tokens in one chunk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from ds4bench.embedded import __main__ as serve
from tests.serving import launched

pytestmark = pytest.mark.integration

ONE_TOKEN = {"prompt": "The baker counted", "temperature": 1.0, "top_k": 1}  # sampled, but certain


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    arguments = ["--num-blocks", "16", "--threads", "1", "--num-speculative-tokens", "2"]
    with launched(tmp_path_factory.mktemp("serve"), *arguments) as url:
        yield httpx.Client(base_url=url, timeout=60)


def counters(client: httpx.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith("vllm:spec_decode")]
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if "_created{" not in line}


def test_the_serve_says_that_it_speculates(client: httpx.Client) -> None:
    version = client.get("/version").json()
    assert (version["speculative"], version["flags"]["num_speculative_tokens"]) == ("mtp:2", 2)


def test_streamed_chunks_count_their_tokens_and_the_counters_are_vllms(client: httpx.Client) -> None:
    before = counters(client)
    body = {
        **ONE_TOKEN, "max_tokens": 40, "ignore_eos": True, "logprobs": 0, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip
    lines = [
        line.removeprefix("data: ") for line in client.post("/v1/completions", json=body).text.splitlines() if line
    ]
    chunks: list[dict[str, Any]] = [json.loads(line) for line in lines if line != "[DONE]"]
    usage = [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk["choices"]]
    sizes = [
        len(chunk["choices"][0]["logprobs"]["tokens"])
        for chunk in chunks
        if chunk["choices"] and chunk["choices"][0]["logprobs"]
    ]
    assert sum(sizes) == usage[-1] == chunks[-1]["usage"]["completion_tokens"] == 40
    spent = {name: value - before[name] for name, value in counters(client).items()}
    labels = 'engine="0",model_name="ds4-nano"'
    drafts, drafted, accepted = (
        spent[f"vllm:spec_decode_num_{name}_total{{{labels}}}"]
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    )
    places = [
        spent[f'vllm:spec_decode_num_accepted_tokens_per_pos_total{{{labels},position="{place}"}}'] for place in (0, 1)
    ]
    assert len(spent) == 5
    assert 0 < drafts <= drafted <= 2 * drafts
    assert accepted == sum(places)
    assert len(usage) == 40 - accepted


def test_a_number_of_tokens_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        serve.main(["--num-speculative-tokens", "4"])
    assert "invalid choice: 4" in capsys.readouterr().err
