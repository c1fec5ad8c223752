"""Prompts, string by string."""

from __future__ import annotations

from typing import Any

import pytest

from ds4bench.embedded.chat.conversation import ChatFormatError
from ds4bench.embedded.chat.encoding import Profile, Thinking, render, render_reply, thinking_of

PLAIN = Thinking(True, "low")
CHAT = Thinking(False)
BOS, EOS, USER, ASSISTANT = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Météo",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = (
    '{"name": "get_weather", "description": "Météo", "parameters": {"type": "object", "properties": '
    '{"city": {"type": "string"}}, "required": ["city"]}}'
)


def say(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def call(call_id: str, arguments: str, name: str = "get_weather") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


HISTORY = [say("user", "a"), say("assistant", "b", reasoning="r1"), say("user", "c")]
CALLED = [
    say("user", "a"),
    say("assistant", "b", reasoning_content="r1", tool_calls=[call("z", '{"city": "X", "n": 3}'), call("y", "{}")]),
    say("tool", "of y", tool_call_id="y"),
    say("tool", "of z", tool_call_id="z"),
]
BLOCK = (
    '\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n'
    '<｜DSML｜parameter name="city" string="true">X</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="n" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
    '<｜DSML｜invoke name="get_weather">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
RESULTS = "<tool_result>of z</tool_result>\n\n<tool_result>of y</tool_result>"


def test_a_first_turn_ends_with_the_opener_of_its_mode() -> None:
    messages = [say("system", "S"), say("user", "Hi")]
    assert render(messages, PLAIN).text == f"{BOS}S{USER}Hi{ASSISTANT}<think>"
    assert render(messages, CHAT).text == f"{BOS}S{USER}Hi{ASSISTANT}</think>"
    assert [render(messages, mode).thinking for mode in (PLAIN, CHAT)] == [True, False]


def test_earlier_reasoning_is_dropped_unless_told_otherwise() -> None:
    keep = Thinking(True, "low", drop_earlier=False)
    last = f"{EOS}{USER}c{ASSISTANT}"
    assert render(HISTORY, PLAIN).text == f"{BOS}{USER}a{ASSISTANT}</think>b{last}<think>"
    assert render(HISTORY, keep).text == f"{BOS}{USER}a{ASSISTANT}<think>r1</think>b{last}<think>"
    assert render(HISTORY, CHAT).text == f"{BOS}{USER}a{ASSISTANT}</think>b{last}</think>"


def test_tools_keep_reasoning_but_chat_mode_never_shows_any() -> None:
    assert f"{ASSISTANT}<think>r1</think>b{EOS}" in render(HISTORY, PLAIN, tools=[WEATHER]).text
    assert f"{ASSISTANT}</think>b{EOS}" in render(HISTORY, CHAT, tools=[WEATHER]).text
    without = [say("user", "a"), say("assistant", "b"), say("user", "c")]
    assert f"{ASSISTANT}<think></think>b{EOS}" in render(without, PLAIN, tools=[WEATHER]).text


def test_results_stand_in_a_user_turn_in_the_order_of_the_calls() -> None:
    text = render([*CALLED, say("user", "and?")], CHAT).text
    assert text == f"{BOS}{USER}a{ASSISTANT}</think>b{BLOCK}{EOS}{USER}{RESULTS}\n\nand?{ASSISTANT}</think>"


def test_results_alone_ask_for_the_next_reply_and_tools_keep_its_reasoning() -> None:
    text = render(CALLED, PLAIN, tools=[WEATHER]).text
    assert text.endswith(f"{USER}a{ASSISTANT}<think>r1</think>b{BLOCK}{EOS}{USER}{RESULTS}{ASSISTANT}<think>")


def test_ids_of_calls_are_matched_within_the_turn_before() -> None:
    again = [call("y", '{"city": "P"}'), call("z", '{"city": "Q"}')]
    results = [say("tool", "Q!", tool_call_id="z"), say("tool", "P!", tool_call_id="y")]
    text = render([*CALLED, say("assistant", "", tool_calls=again), *results], CHAT).text
    assert RESULTS in text
    assert "<tool_result>P!</tool_result>\n\n<tool_result>Q!</tool_result>" in text


@pytest.mark.parametrize("system", [[], [say("system", "S")]])
def test_tools_follow_the_system_text(system: list[dict[str, Any]]) -> None:
    text = render([*system, say("user", "Hi")], CHAT, tools=[WEATHER]).text
    head = f"{BOS}{'S' if system else ''}\n\n## Tools\n\nYou have access to a set of tools"
    assert text.startswith(head)
    assert f"\n### Available Tool Schemas\n\n{SCHEMA}\n\nYou MUST strictly follow" in text
    assert text.endswith(f" to invoke tool calls.\n{USER}Hi{ASSISTANT}</think>")
    assert render([*system, say("user", "Hi")], CHAT, tools=[WEATHER], tool_choice="none").text.startswith(
        f"{BOS}{'S' if system else ''}{USER}"
    )


def test_required_and_named_choices_open_the_call_in_the_prompt() -> None:
    def choose(choice: str) -> tuple[str, str, bool]:
        prompt = render([say("user", "Hi")], PLAIN, tools=[WEATHER], tool_choice=choice)
        return prompt.text.partition(ASSISTANT)[2], prompt.opened, prompt.thinking

    block = "\n\n<｜DSML｜tool_calls>\n"
    named = f'{block}<｜DSML｜invoke name="get_weather">\n'
    assert choose("required") == (f"<think>{block}", block, False)
    assert choose("get_weather") == (f"<think>{named}", named, False)
    assert choose("auto") == ("<think>", "", True)


def test_response_formats_stand_in_a_section_of_the_system_text() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    text = render([say("system", "S"), say("user", "Hi")], CHAT, response_format=schema).text
    assert text == (
        f"{BOS}S\n\n## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n"
        f'{{"type": "object"}}{USER}Hi{ASSISTANT}</think>'
    )
    assert (
        "Reply with JSON object ONLY" in render([say("user", "Hi")], CHAT, response_format={"type": "json_object"}).text
    )
    assert render([say("user", "Hi")], CHAT, response_format={"type": "text"}) == render([say("user", "Hi")], CHAT)


def test_developer_messages_are_user_turns_and_go_with_the_earlier_reasoning() -> None:
    early = [say("developer", "D"), *HISTORY]
    assert render(early, PLAIN).text == render(HISTORY, PLAIN).text
    assert render(early, CHAT).text.startswith(f"{BOS}{USER}D{USER}a{ASSISTANT}</think>b")
    assert render([say("user", "a"), say("developer", "D")], PLAIN).text == f"{BOS}{USER}a{USER}D{ASSISTANT}<think>"
    assert f"{USER}{RESULTS}{USER}D{ASSISTANT}" in render([*CALLED, say("developer", "D")], CHAT).text


def test_neighbouring_user_messages_are_one_turn() -> None:
    assert render([say("user", "a"), say("user", "b")], CHAT).text == f"{BOS}{USER}a\n\nb{ASSISTANT}</think>"


def test_a_reminder_stands_before_the_opener() -> None:
    text = render([say("user", "a"), say("latest_reminder", "R")], PLAIN).text
    assert text == f"{BOS}{USER}a<｜latest_reminder｜>R{ASSISTANT}<think>"


@pytest.mark.parametrize(
    ("task", "end"),
    [("query", "<｜query｜>"), ("title", "<｜title｜>"), ("action", f"{ASSISTANT}</think><｜action｜>")],
)
def test_a_task_asks_for_its_own_kind_of_answer(task: str, end: str) -> None:
    prompt = render([say("user", "a", task=task)], CHAT)
    assert prompt.text == f"{BOS}{USER}a{end}"
    assert not render([say("user", "a", task=task)], PLAIN).thinking
    if task == "action":
        assert render([say("user", "a", task=task)], PLAIN).text.endswith(f"{ASSISTANT}<think><｜action｜>")


@pytest.mark.parametrize(
    ("profile", "effort", "preamble"),
    [
        ("0.33", None, "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"),
        ("0.33", "high", "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"),
        ("0.33", "xhigh", "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"),
        ("0.33", "max", "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"),
        *[("0.33", effort, "") for effort in ("low", "minimal", "medium")],
        *[("2026-05", effort, "") for effort in (None, "low", "high")],
        ("2026-05", "max", "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"),
    ],
)
def test_what_was_maximum_effort_in_may_is_the_default_now(profile: Profile, effort: str | None, preamble: str) -> None:
    text = render([say("user", "a")], thinking_of({"thinking": True}, effort, profile)).text
    if preamble:
        assert text.startswith(BOS + preamble)
        assert text.endswith(f".\n\n{USER}a{ASSISTANT}<think>")
    else:
        assert text == f"{BOS}{USER}a{ASSISTANT}<think>"
    chat = render([say("user", "a")], thinking_of({"thinking": False}, effort, profile)).text
    assert chat == f"{BOS}{USER}a{ASSISTANT}</think>"


@pytest.mark.parametrize(
    ("kwargs", "effort", "now", "may"),
    [
        ({}, None, True, False),
        ({"thinking": None}, None, True, False),
        ({"thinking": True}, None, True, True),
        ({"enable_thinking": True, "thinking": False}, None, True, True),
        ({"enable_thinking": False}, "high", False, False),
        ({"thinking": True}, "none", False, False),
        ({"thinking": True, "reasoning_effort": "none"}, "max", False, False),
    ],
)
def test_who_thinks(kwargs: dict[str, Any], effort: str | None, now: bool, may: bool) -> None:
    assert [thinking_of(kwargs, effort, profile).enabled for profile in ("0.33", "2026-05")] == [now, may]


@pytest.mark.parametrize(
    ("messages", "options", "param", "words"),
    [
        ([say("king", "x")], {}, "messages", "unknown role 'king'"),
        ([say("developer", "")], {}, "messages", "needs content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], {}, "messages", "only text parts"),
        ([say("user", "x", task="sing")], {}, "messages", "unknown task 'sing'"),
        ([say("user", "x", task="title"), say("user", "y")], {}, "messages", "only the last"),
        ([say("assistant", "", tool_calls=[call("a", "{")])], {}, "messages", "not a JSON object"),
        ([say("user", "x")], {"tool_choice": "required"}, "tool_choice", "needs tools"),
        ([say("user", "x")], {"tools": [WEATHER], "tool_choice": "f"}, "tool_choice", "get_weather"),
        ([say("user", "x")], {"response_format": {"type": "regex"}}, "response_format", "json_schema"),
        (
            [say("user", "x")],
            {"tools": [{"function": {"name": "f", "parameters": {"maximum": 10**40}}}]},
            "tools",
            "range",
        ),
    ],
)
def test_what_cannot_be_rendered_says_which_field_is_wrong(
    messages: list[dict[str, Any]], options: dict[str, Any], param: str, words: str
) -> None:
    with pytest.raises(ChatFormatError, match=words) as caught:
        render(messages, CHAT, **options)
    assert caught.value.param == param


def test_a_reply_is_what_the_history_shows_of_it() -> None:
    message = CALLED[1]
    assert render_reply(message, PLAIN) == f"r1</think>b{BLOCK}{EOS}"
    assert render_reply(message, CHAT) == f"b{BLOCK}{EOS}"
