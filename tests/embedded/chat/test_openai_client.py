"""A whole conversation with tools through the official ``openai`` client, against a real serve with a scripted model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessage, ChatCompletionMessageFunctionToolCall

from tests.serving import launched

pytestmark = pytest.mark.integration

Call = ChatCompletionMessageFunctionToolCall
DSML = "｜DSML｜"
CITIES = "What is the weather in Oslo and Paris?"
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city"],
            },
        },
    }
]


def invoke(city: str) -> str:
    return (
        f'<{DSML}invoke name="get_weather">\n<{DSML}parameter name="city" string="true">{city}</{DSML}parameter>\n'
        f'<{DSML}parameter name="days" string="false">2</{DSML}parameter>\n</{DSML}invoke>\n'
    )


BLOCK = f"<{DSML}tool_calls>\n{invoke('Oslo')}{invoke('Paris')}</{DSML}tool_calls>"
RESULTS = "<tool_result>3 C</tool_result>\n\n<tool_result>12 C</tool_result>"
THINKING, ANSWERING = "<｜Assistant｜><think>", "<｜Assistant｜></think>"
ROME = f'<{DSML}parameter name="city" string="true">Rome</{DSML}parameter>'
SCRIPT = [
    # The answer comes only if the prompt has the whole history: reasoning, calls, results in the order of the calls.
    ([f"<think>Two cities.</think>I look.\n\n{BLOCK}", RESULTS, THINKING], "Cold, warm.</think>Oslo 3, Paris 12."),
    ([f"</think>I look.\n\n{BLOCK}", RESULTS, ANSWERING], "Oslo 3, Paris 12."),
    (["## Tools", CITIES, ANSWERING], f"I look.\n\n{BLOCK}"),
    (["## Tools", CITIES, THINKING], f"Two cities.</think>I look.\n\n{BLOCK}"),
    (["without end tag"], f"I call.{BLOCK}"),
    (["forced", f'<{DSML}invoke name="get_weather">\n'], ROME),
    (["Hi, what is 1 < 2?"], "Yes: 1 </b> 2 <｜"),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = tmp_path_factory.mktemp("scripted")
    script = folder / "script.json"
    script.write_text(json.dumps(SCRIPT))
    command = [str(Path(__file__).with_name("scripted_serve.py")), "--weights", "random", "--num-blocks", "16"]
    with launched(folder, "--no-prefix-caching", command=command, env={"SCRIPT": str(script)}) as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)


def ask(client: openai.OpenAI, messages: list[Any], **options: Any) -> tuple[ChatCompletionMessage, str]:
    """(message, finish reason) of a whole reply."""
    reply = client.chat.completions.create(model="ds4-tiny", messages=messages, temperature=0, **options)
    return reply.choices[0].message, reply.choices[0].finish_reason


def ask_streaming(client: openai.OpenAI, messages: list[Any], **options: Any) -> tuple[ChatCompletionMessage, str]:
    """The same from a stream; the client's own accumulator puts the tool calls together."""
    with client.chat.completions.stream(model="ds4-tiny", messages=messages, temperature=0, **options) as stream:
        deltas = [event.chunk.choices[0].delta for event in stream if event.type == "chunk" and event.chunk.choices]
        choice = stream.get_final_completion().choices[0]
    shown = "".join(str(delta.model_dump()) for delta in deltas)
    assert DSML not in shown
    assert "think>" not in shown
    message = ChatCompletionMessage.model_validate(choice.message.model_dump())
    message.reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas) or None  # type: ignore[attr-defined]
    return message, choice.finish_reason


ASKS = pytest.mark.parametrize("how", [ask, ask_streaming])


def reasoning_of(message: ChatCompletionMessage) -> str | None:
    found: str | None = getattr(message, "reasoning", None)
    return found


def calls_of(message: ChatCompletionMessage) -> list[Call]:
    return [call for call in message.tool_calls or [] if isinstance(call, Call)]


@ASKS
@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_a_question_two_calls_their_results_and_the_answer(
    client: openai.OpenAI, how: Any, thinking: bool, field: str
) -> None:
    options: dict[str, Any] = {"tools": TOOLS, "reasoning_effort": "low"}
    if not thinking:  # on is the default
        options["extra_body"] = {"chat_template_kwargs": {"thinking": False}}
    messages: list[Any] = [{"role": "user", "content": CITIES}]
    called, finish = how(client, messages, **options)
    assert (called.content, finish) == ("I look.", "tool_calls")
    assert reasoning_of(called) == ("Two cities." if thinking else None)
    calls = calls_of(called)
    assert [call.function.name for call in calls] == ["get_weather"] * 2
    assert [json.loads(call.function.arguments) for call in calls] == [
        {"city": "Oslo", "days": 2},
        {"city": "Paris", "days": 2},
    ]
    assert len({call.id for call in calls}) == 2

    history = called.model_dump(include={"role", "content", "tool_calls"}) | {field: reasoning_of(called)}
    history["tool_calls"] = [call.model_dump(include={"id", "type", "function"}) for call in calls]
    results = zip(reversed(calls), ("12 C", "3 C"), strict=True)
    messages += [history, *({"role": "tool", "tool_call_id": call.id, "content": text} for call, text in results)]
    answer, finish = how(client, messages, **options)
    assert (answer.content, finish) == ("Oslo 3, Paris 12.", "stop")
    assert reasoning_of(answer) == ("Cold, warm." if thinking else None)
    assert not answer.tool_calls


@ASKS
def test_a_call_that_never_ended_its_reasoning(client: openai.OpenAI, how: Any) -> None:
    message, finish = how(client, [{"role": "user", "content": "without end tag"}], tools=TOOLS)
    assert (reasoning_of(message), message.content or None, finish) == ("I call.", None, "tool_calls")
    assert len(calls_of(message)) == 2


@ASKS
def test_a_named_tool_is_called(client: openai.OpenAI, how: Any) -> None:
    choice = {"type": "function", "function": {"name": "get_weather"}}
    message, finish = how(client, [{"role": "user", "content": "forced"}], tools=TOOLS, tool_choice=choice)
    assert [json.loads(call.function.arguments) for call in calls_of(message)] == [{"city": "Rome"}]
    assert finish == "tool_calls"


@ASKS
def test_plain_chat_shows_what_only_looked_like_markers(client: openai.OpenAI, how: Any) -> None:
    off = {"chat_template_kwargs": {"thinking": False}}
    message, finish = how(client, [{"role": "user", "content": "Hi, what is 1 < 2?"}], extra_body=off)
    assert (message.content, finish) == ("Yes: 1 </b> 2 <｜", "stop")
    assert not message.tool_calls


def test_a_cut_call_is_still_json_and_says_that_it_was_cut(client: openai.OpenAI) -> None:
    message, finish = ask(client, [{"role": "user", "content": CITIES}], tools=TOOLS, max_tokens=45)
    assert finish == "length"
    assert calls_of(message)
    assert all(isinstance(json.loads(call.function.arguments), dict) for call in calls_of(message))


def test_refusals_are_openai_errors(client: openai.OpenAI) -> None:
    strict: Any = [{"type": "function", "function": {"name": "f", "strict": True}}]
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, [{"role": "user", "content": "x"}], tools=strict)
    assert caught.value.param == "tools"


def test_usage_and_logprobs_cover_every_token(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(
        model="ds4-tiny", messages=[{"role": "user", "content": CITIES}], tools=TOOLS, logprobs=True, temperature=0
    )
    assert reply.usage is not None
    assert reply.usage.completion_tokens_details is not None
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.content or []) == reply.usage.completion_tokens
    reasoning = reply.usage.completion_tokens_details.reasoning_tokens or 0
    assert 0 < reasoning < reply.usage.completion_tokens
    tokens = [entry.token for entry in logprobs.content or []]
    assert "".join(tokens[:reasoning]) == "Two cities.</think>"
