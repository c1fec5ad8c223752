"""Faults of the chat endpoint, how a serve is told to have faults, and where it shows them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from ds4bench.embedded import __main__ as serve_main
from ds4bench.embedded.batch import StepInput
from ds4bench.embedded.chat.special_tokens import DSML
from ds4bench.embedded.config import EngineConfig
from ds4bench.embedded.engine import Engine
from ds4bench.embedded.faults import table
from ds4bench.embedded.faults.base import Chosen, FaultError, Serve
from ds4bench.embedded.metrics import EngineMetrics
from ds4bench.embedded.server import ChatFormat, ServeInfo, build_app
from ds4bench.embedded.tokenizer import Tokenizer
from tests.serving import launched

CONFIG = EngineConfig(num_blocks=8, enable_prefix_caching=False)
TOOLS = [
    {
        "type": "function",
        "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}},
    }
]
CALL = (
    f'<{DSML}tool_calls>\n<{DSML}invoke name="get_weather">\n<{DSML}parameter name="city" string="true">Oslo'
    f"</{DSML}parameter>\n</{DSML}invoke>\n</{DSML}tool_calls>"
)
WITH_CALL = f"Is 1 < 2? I look.\n\n{CALL}"
MESSAGES = {"messages": [{"role": "user", "content": "Oslo?"}]}
CHAT_TEMPLATE = {"chat_template_kwargs": {"thinking": True}}


class Script:
    """Stands in for the model, one request at a time: it says ``answer``, behind a thought where the prompt opened one."""

    def __init__(self, answer: str) -> None:
        self.tokenizer = Tokenizer()
        self.answer = answer
        self.left: list[int] = []

    def step(self, inputs: list[StepInput]) -> torch.Tensor:
        (item,) = inputs
        if not item.want_logits:
            return torch.empty(0, self.tokenizer.vocab_size)
        if not item.is_decode:  # the prompt's end
            thinks = item.token_ids[-1] != self.tokenizer.end_think_id
            text = ("Hm, Oslo.</think>" if thinks else "") + self.answer
            self.left = [*self.tokenizer.encode(text), self.tokenizer.eos_id]
        logits = torch.full((1, self.tokenizer.vocab_size), -30.0)
        logits[0, self.left.pop(0)] = 30.0
        return logits

    def draft(self, inputs: list[StepInput], sources: list[int]) -> torch.Tensor:
        raise NotImplementedError


@asynccontextmanager
async def client(answer: str, *faults: str) -> AsyncIterator[httpx.AsyncClient]:
    script, chat = Script(answer), ChatFormat()
    engine = Engine(lambda: script, script.tokenizer, CONFIG, EngineMetrics("test"))
    table.install(table.choose(faults), Serve(script, engine, chat))  # type: ignore[arg-type]
    app = build_app(engine, ServeInfo("1", "test", "none", "none", prefix_caching=False), chat)
    engine.start()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        yield http
    await asyncio.to_thread(engine.stop)


async def whole(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    reply: dict[str, Any] = (await http.post("/v1/chat/completions", json={**MESSAGES, **body})).json()
    return reply


async def streamed(http: httpx.AsyncClient, **body: Any) -> dict[str, str]:
    """The texts of a stream by field; arguments of tool calls under ``arguments``."""
    response = await http.post("/v1/chat/completions", json={**MESSAGES, **body, "stream": True})
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    texts: dict[str, str] = {}
    for chunk in (json.loads(line) for line in lines if line != "[DONE]"):
        for name, value in chunk["choices"][0]["delta"].items():
            if name == "tool_calls":
                texts["arguments"] = texts.get("arguments", "") + value[0]["function"]["arguments"]
            elif name != "role" and value:
                texts[name] = texts.get(name, "") + value
    return texts


async def test_thinking_is_ignored_however_it_is_asked_for() -> None:
    for asked in ({}, CHAT_TEMPLATE, {"chat_template_kwargs": {"enable_thinking": True}}, {"reasoning_effort": "max"}):
        async with client("Cold.") as http:
            right = await whole(http, **asked)
        assert right["choices"][0]["message"]["reasoning"] == "Hm, Oslo."
        async with client("Cold.", "thinking-ignored") as http:
            wrong = await whole(http, **asked)
            counted = (await http.post("/tokenize", json={**MESSAGES, **asked})).json()
        message = wrong["choices"][0]["message"]
        assert (message["reasoning"], message["content"]) == (None, "Cold.")
        assert "completion_tokens_details" not in wrong["usage"]
        assert counted["count"] == wrong["usage"]["prompt_tokens"]


async def test_without_thinking_asked_for_nothing_is_ignored() -> None:
    asked = {"chat_template_kwargs": {"thinking": False}}
    replies = []
    for faults in ((), ("thinking-ignored",)):
        async with client("Cold.", *faults) as http:
            reply = await whole(http, **asked)
            replies.append((reply["choices"], reply["usage"]))
    assert replies[0] == replies[1]


async def test_a_split_marker_leaks_into_the_content_of_streams_with_tools() -> None:
    right = {"reasoning": "Hm, Oslo.", "content": "Is 1 < 2? I look.", "arguments": '{"city": "Oslo"}'}
    async with client(WITH_CALL) as http:
        assert await streamed(http, tools=TOOLS) == right
        right_whole = (await whole(http, tools=TOOLS))["choices"][0]["message"]
        without_tools = await streamed(http)
    async with client(WITH_CALL, "dsml-split-leak") as http:
        leaked = await streamed(http, tools=TOOLS)
        wrong_whole = (await whole(http, tools=TOOLS))["choices"][0]["message"]
        assert await streamed(http) == without_tools
    assert leaked["content"].startswith(f"Is 1 < 2? I look.<{DSML}tool")
    assert leaked == {**right, "content": leaked["content"]}
    for message in (right_whole, wrong_whole):
        message["tool_calls"][0].pop("id")
    assert wrong_whole == right_whole


async def test_false_alarms_do_not_leak() -> None:
    for answer in ("Is 1 < 2?", f"A <{DSML}thing> is text, <", "</b> is no end"):
        texts = []
        for faults in ((), ("dsml-split-leak",)):
            async with client(answer, *faults) as http:
                texts.append(await streamed(http, tools=TOOLS))
        assert texts[0] == texts[1]


async def test_reasoning_comes_under_its_other_name() -> None:
    async with client("Cold.") as http:
        right, right_whole = await streamed(http), (await whole(http))["choices"][0]["message"]
    async with client("Cold.", "reasoning-field-renamed") as http:
        wrong, wrong_whole = await streamed(http), (await whole(http))["choices"][0]["message"]
    assert right == {"reasoning": "Hm, Oslo.", "content": "Cold."}
    assert wrong == {"reasoning_content": "Hm, Oslo.", "content": "Cold."}
    right_whole["reasoning_content"] = right_whole.pop("reasoning")
    assert wrong_whole == right_whole


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("swa", "there is no such fault"),
        ("swa-dropped:3", "swa-dropped takes no argument"),
        ("drop-sink:", "drop-sink takes no argument"),
        ("slow-prefill", "needs :PERCENT%, e.g. slow-prefill:20%"),
        ("slow-prefill:0%", "needs :PERCENT%"),
        ("slow-prefill:-5%", "needs :PERCENT%"),
        ("slow-decode-beyond:far", "needs :N"),
        ("hang-at:4", "needs :c=N, e.g. hang-at:c=4"),
        ("release-active-prefix-hits:", "needs :WORDS"),
    ],
)
def test_a_fault_that_is_not_understood_is_told_in_one_line(
    text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve_main.main(["--port", "0", "--fault", text]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert all(name in error for name in table.FAULTS)


@pytest.mark.parametrize(
    ("text", "flags", "words"),
    [
        ("swa-dropped", ["--backend", "ops"], "needs the fused backend, not ops"),
        ("lse-inf", ["--backend", "ops"], "needs the fused backend, not ops"),
        ("topk-off-by-one", ["--backend", "ops"], "needs the fused backend, not ops"),
        ("mtp-accept-all", [], "needs --num-speculative-tokens"),
        ("poisoned-prefix", ["--no-prefix-caching"], "needs prefix caching"),
        ("stale-compressor-state", ["--no-prefix-caching"], "needs prefix caching"),
        ("release-active-prefix-hits:800", ["--no-prefix-caching"], "needs prefix caching"),
        ("hang-at:c=4", ["--max-num-seqs", "3"], "needs --max-num-seqs 4 or more"),
        ("slow-decode-beyond:4096", ["--num-blocks", "16"], "needs a context of more than 4096 tokens"),
    ],
)
def test_a_fault_that_would_do_nothing_is_refused(
    text: str, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve_main.main(["--port", "0", "--fault", text, *flags]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--fault {text} would change nothing here: it {words}" in error


def test_a_fault_given_twice_is_refused() -> None:
    with pytest.raises(FaultError, match="--fault slow-prefill is given twice"):
        table.choose(["slow-prefill:5%", "drop-sink", "slow-prefill:20%"])


def test_an_argument_left_out_shows_as_what_it_is() -> None:
    (chosen,) = table.choose(["release-active-prefix-hits"])
    assert chosen == Chosen(table.FAULTS["release-active-prefix-hits"], 800, "release-active-prefix-hits:800")


def test_the_listing_says_what_each_fault_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve_main.main(["--list-faults"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(table.FAULTS)
    for line, fault in zip(lines, table.FAULTS.values(), strict=True):
        assert line.startswith(fault.name)
        assert line.endswith(fault.summary)


def test_asking_for_faults_loads_no_torch() -> None:
    code = "import sys; from ds4bench.embedded.faults import table; print(table.listing()); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.integration
def test_version_shows_the_faults_and_the_old_flag(tmp_path: Path) -> None:
    faults = ["--fault", "drop-sink", "--fault", "hang-at:c=4", "--prefill-delay-share", "0.025"]
    with launched(tmp_path, "--num-blocks", "8", "--threads", "1", *faults) as url:
        assert httpx.get(f"{url}/version").json()["faults"] == ["drop-sink", "hang-at:c=4", "slow-prefill:2.5%"]
        body = {"prompt": "The baker", "max_tokens": 2, "temperature": 0, "ignore_eos": True}
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
        assert reply["usage"]["completion_tokens"] == 2
