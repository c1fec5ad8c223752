"""Whole conversations with the embedded engine's chat server: with random weights, with a fault, with scripted replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ds4bench.client.load import LoadClient
from ds4bench.client.transport import HttpRequest, HttpxAiohttpTransport
from ds4bench.targets.dialect import dialect_of
from ds4bench.workloads.toolcall15.conversation import Send, converse
from ds4bench.workloads.toolcall15.modes import MODES, Mode
from ds4bench.workloads.toolcall15.reply import Reply, reply_of_message, reply_of_result
from ds4bench.workloads.toolcall15.rules import score
from ds4bench.workloads.toolcall15.scenario import VARIANTS, Battery, Scenario
from ds4bench.workloads.toolcall15.summary import rescore
from ds4bench.workloads.toolcall15.trace import Trace, dump_traces, load_traces
from tests.serving import launched

pytestmark = pytest.mark.integration

DIALECT = dialect_of("embedded")
SCRIPTED = Path(__file__).with_name("scripted_model.py")
SMALL = (
    "--num-blocks",
    "16",
    "--threads",
    "1",
)  # two threads that share their cores with other work wait for each other
DSML = "｜DSML｜"
LONDON = "How is the weather in London, and at what price is the stock MSFT?"


def invoke(name: str, argument: str, value: str) -> str:
    parameter = f'<{DSML}parameter name="{argument}" string="true">{value}</{DSML}parameter>'
    return f'<{DSML}invoke name="{name}">\n{parameter}\n</{DSML}invoke>\n'


CALLS = f"<{DSML}tool_calls>\n{invoke('get_weather', 'location', 'London')}\
{invoke('get_stock_price', 'ticker', 'MSFT')}</{DSML}tool_calls>"
THINKING, ANSWERING = "<｜Assistant｜><think>", "<｜Assistant｜></think>"
BOTH = "12C and cloudy; MSFT is at $412.78."
SCRIPT = [  # the second reply of the thinking mode needs the reasoning of the first one in its prompt
    ([f"<think>Two tasks.</think>I ask.\n\n{CALLS}", '"temperature": 12', "412.78", THINKING], f"Good.</think>{BOTH}"),
    ([f"</think>I ask.\n\n{CALLS}", '"temperature": 12', "412.78", ANSWERING], BOTH),
    ([LONDON, ANSWERING], f"I ask.\n\n{CALLS}"),
    ([LONDON, THINKING], f"Two tasks.</think>I ask.\n\n{CALLS}"),
]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A serve whose model plays ``SCRIPT``."""
    folder = tmp_path_factory.mktemp("toolcall-scripted")
    (folder / "script.json").write_text(json.dumps(SCRIPT))
    env = {"TOOLCALL_SCRIPT": str(folder / "script.json")}
    with launched(folder, *SMALL, "--no-prefix-caching", command=[str(SCRIPTED)], env=env) as url:
        yield url


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with launched(tmp_path_factory.mktemp("toolcall-random"), *SMALL) as url:
        yield url


@pytest.fixture(scope="module")
def unthinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A serve that ignores how it is asked to think."""
    with launched(tmp_path_factory.mktemp("toolcall-fault"), *SMALL, "--fault", "thinking-ignored") as url:
        yield url


def body(messages: Any, tools: Any, mode: Mode, max_tokens: int) -> dict[str, Any]:
    fields = {"temperature": 0, "max_tokens": max_tokens, "tool_choice": "auto", **mode.body(DIALECT.thinking)}
    return {"messages": messages, "tools": tools, **fields}


def whole(client: httpx.AsyncClient, max_tokens: int) -> Send:
    """Replies that are not streamed."""

    async def send(messages: Any, tools: Any, mode: Mode) -> Reply:
        answer = await client.post("/v1/chat/completions", json=body(messages, tools, mode, max_tokens))
        if answer.status_code != 200:
            return Reply(error=f"http_{answer.status_code}: {answer.text}")
        page = answer.json()
        (choice,) = page["choices"]
        return reply_of_message(choice["message"], finish_reason=choice["finish_reason"], usage=page["usage"])

    return send


def streamed(client: LoadClient, max_tokens: int) -> Send:
    """Replies that are streamed, through the timed client."""

    async def send(messages: Any, tools: Any, mode: Mode) -> Reply:
        asked = body(messages, tools, mode, max_tokens)
        asked.update(stream=True, stream_options=DIALECT.stream_options())
        request = HttpRequest("/v1/chat/completions", json.dumps(asked).encode())
        return reply_of_result((await client.run_batch([request], deadline_s=60)).results[0])

    return send


def hold(url: str, held: list[tuple[Scenario, str]], *, stream: bool = False, max_tokens: int = 200) -> list[Trace]:
    async def run() -> list[Trace]:
        if stream:
            async with LoadClient(HttpxAiohttpTransport(url)) as timed:
                return [await converse(s, MODES[mode], streamed(timed, max_tokens)) for s, mode in held]
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            return [await converse(s, MODES[mode], whole(client, max_tokens)) for s, mode in held]

    return asyncio.run(run())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_scripted_model_gets_full_points_over_the_wire(scripted: str, battery: Battery, stream: bool) -> None:
    scenario = battery.scenario("TC-09", "v1-jasl")
    traces = hold(scripted, [(scenario, "non-thinking"), (scenario, "think-high")], stream=stream)
    for trace in traces:
        assert trace.error is None
        assert (trace.status, trace.turns[-1].content) == ("answered", BOTH)
        assert [score(trace, battery, rules).points for rules in VARIANTS] == [2, 2]
        assert score(trace, battery, "v1-jasl").notes == ["both tools were called in one turn"]
        assert score(trace, battery, "v1-jasl").diagnoses == []
    assert [turn.reasoning for turn in traces[1].turns] == ["Two tasks.", "Good."]
    assert load_traces(dump_traces(traces)) == traces


def test_streamed_and_whole_conversations_are_the_same(scripted: str, battery: Battery) -> None:
    scenario = battery.scenario("TC-09", "v1-jasl")
    said = [hold(scripted, [(scenario, "think-max")], stream=stream)[0].fingerprint for stream in (False, True)]
    assert said[0] == said[1]


EACH_CATEGORY = ["TC-01", "TC-06", "TC-07", "TC-10", "TC-15"]


@pytest.mark.parametrize("names", [EACH_CATEGORY, pytest.param(None, marks=pytest.mark.slow)], ids=["five", "all"])
def test_random_weights_hold_every_conversation_to_its_end(
    random_weights: str, battery: Battery, names: list[str] | None
) -> None:
    chosen = [battery.scenario(name, "v1-jasl") for name in names or battery.files]
    held = [(scenario, "non-thinking") for scenario in chosen]
    held += [(battery.scenario("TC-10", "v1-jasl"), mode) for mode in ("think-high", "think-max")]
    traces = hold(random_weights, held, max_tokens=8)
    assert [trace.error for trace in traces] == [None] * len(held)
    found = rescore(load_traces(dump_traces(traces)), "v1-original", battery)
    assert found.summary.total.conversations == len(held)
    assert len(found.summary.incomplete) == 15 - len(chosen)
    assert [bool(trace.turns[0].reasoning) for trace in traces] == [trace.mode != "non-thinking" for trace in traces]
    high, top = (trace.turns[0].prompt_tokens for trace in traces[-2:])
    assert high != top  # the effort is written into the prompt


def test_a_serve_that_ignores_thinking_answers_without_reasoning_in_every_mode(
    unthinking: str, battery: Battery
) -> None:
    scenario = battery.scenario("TC-10", "v1-jasl")
    traces = hold(unthinking, [(scenario, mode) for mode in MODES], max_tokens=8)
    assert [trace.turns[0].reasoning for trace in traces] == [None] * len(MODES)


def test_a_serve_that_refuses_is_an_error_of_the_conversation(random_weights: str, battery: Battery) -> None:
    checks: list[Callable[[Trace], bool]] = [lambda t: t.status == "error", lambda t: "http_400" in (t.error or "")]
    for stream in (False, True):
        (trace,) = hold(
            random_weights, [(battery.scenario("TC-10", "v1-jasl"), "non-thinking")], stream=stream, max_tokens=99999
        )
        assert all(check(trace) for check in checks)
        assert score(trace, battery, "v1-jasl").label == "error"
