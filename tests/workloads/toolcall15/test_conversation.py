"""The turn loop against scripted replies."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.core import RequestResult
from ds4bench.errors import TargetDiedError
from ds4bench.workloads.toolcall15.conversation import MAX_CALLS_PER_TURN, Send, converse
from ds4bench.workloads.toolcall15.modes import MODES, Mode
from ds4bench.workloads.toolcall15.reply import Reply, ReplyCall, reply_of_message, reply_of_result
from ds4bench.workloads.toolcall15.rules import score
from ds4bench.workloads.toolcall15.scenario import VARIANTS, Battery, load_battery
from ds4bench.workloads.toolcall15.trace import Trace, dump_traces, load_traces

BATTERY = load_battery()
HIGH = MODES["think-high"]
WEATHER = ReplyCall("a1", "get_weather", '{"location": "Berlin"}')
Script = Callable[..., Send]


def hold(battery: Battery, send: Send, name: str = "TC-01", mode: Mode = HIGH) -> Trace:
    return asyncio.run(converse(battery.scenario(name, "v1-jasl"), mode, send))


def test_the_first_request_is_system_user_and_all_tools(battery: Battery, script: Script) -> None:
    sent: list[dict[str, Any]] = []
    trace = hold(battery, script(["Cold."], sent))
    assert trace.status == "answered"
    assert [message["role"] for message in sent[0]["messages"]] == ["system", "user"]
    assert "2026-03-20" in sent[0]["messages"][0]["content"]
    assert sent[0]["messages"][1]["content"] == trace.user
    assert len(sent[0]["tools"]) == 12
    assert sent[0]["mode"] is HIGH


def test_hints_of_the_schemas_are_sent_by_the_original_only(battery: Battery) -> None:
    texts = [json.dumps(battery.scenario("TC-08", protocol).tools) for protocol in VARIANTS]
    assert ["ISO 8601" in text for text in texts] == [True, False]
    assert ['"default"' in text for text in texts] == [True, False]
    assert all('"additionalProperties": false' in text for text in texts)


def test_calls_of_one_turn_are_answered_in_order_each_by_its_id(battery: Battery, script: Script) -> None:
    sent: list[dict[str, Any]] = []
    calls = [WEATHER, ReplyCall("b2", "web_search", '{"query": "Berlin"}')]
    trace = hold(battery, script([Reply(calls=calls, reasoning="Both."), "Cold."], sent))
    assistant, *results = sent[1]["messages"][2:]
    assert [call["id"] for call in assistant["tool_calls"]] == [r["tool_call_id"] for r in results] == ["a1", "b2"]
    assert [json.loads(r["content"]) for r in results] == [call.result for call in trace.calls]
    assert json.loads(results[0]["content"])["temperature"] == 8


def test_missing_and_repeated_ids_get_ids_of_their_own(battery: Battery, script: Script) -> None:
    same = ReplyCall("x", "get_weather", "{}")
    nameless = ReplyCall(None, "get_weather", "{}")
    trace = hold(battery, script([Reply(calls=[same, same, nameless]), Reply(calls=[same]), "Cold."]))
    ids = [call.id for call in trace.calls]
    assert len(set(ids)) == 4
    assert ids[0] == "x"


@pytest.mark.parametrize(
    "text", ['{"location": "Berlin"', "[1]", '"Berlin"', "null", "Berlin", '{"a": NaN}', '{"a": "\\ud800"}', "{" * 9999]
)
def test_malformed_arguments_count_as_none_and_are_not_sent_back(battery: Battery, script: Script, text: str) -> None:
    sent: list[dict[str, Any]] = []
    trace = hold(battery, script([Reply(calls=[ReplyCall("a", "get_weather", text)]), "Cold."], sent))
    call = trace.calls[0]
    assert (call.text, call.arguments, call.malformed) == (text, {}, True)
    assert sent[1]["messages"][2]["tool_calls"][0]["function"]["arguments"] == "{}"
    scored = score(trace, battery, "v1-jasl")
    assert scored.points == 0
    assert "malformed_arguments" in scored.diagnoses


def test_empty_arguments_are_an_empty_object(battery: Battery, script: Script) -> None:
    trace = hold(battery, script([Reply(calls=[ReplyCall("a", "get_weather", "")]), "Cold."]))
    assert not trace.calls[0].malformed
    assert trace.calls[0].mistakes == ["location is missing"]


@pytest.mark.parametrize(
    ("name", "arguments", "mistake"),
    [
        ("get_weather", {"location": "x", "units": "kelvin"}, "units: is none of celsius, fahrenheit"),
        ("get_weather", {"location": "x", "city": "y"}, "'city' is no argument"),
        ("create_calendar_event", {"title": "", "date": "", "time": "", "duration_minutes": True}, "is no integer"),
        ("send_email", {"to": "", "subject": "", "body": "", "attachments": [1]}, "an item of the wrong kind"),
        ("fly", {}, "there is no tool 'fly'"),
    ],
)
def test_mistakes_against_the_schema_are_noted_and_cost_nothing(
    battery: Battery, script: Script, name: str, arguments: dict[str, Any], mistake: str
) -> None:
    reply = Reply(calls=[ReplyCall("a", name, json.dumps(arguments))])
    trace = hold(battery, script([reply, "Cold."]))
    assert mistake in trace.calls[0].mistakes[0]
    assert score(trace, battery, "v1-jasl").diagnoses == ["schema_mistakes"]


def test_reasoning_goes_back_with_its_calls_even_when_it_is_empty(battery: Battery, script: Script) -> None:
    sent: list[dict[str, Any]] = []
    turns = [Reply(calls=[WEATHER], reasoning="Look."), Reply(calls=[ReplyCall("b", "web_search", "{}")]), "Cold."]
    hold(battery, script(turns, sent))
    assistants = [message for message in sent[2]["messages"] if message["role"] == "assistant"]
    assert [message["reasoning_content"] for message in assistants] == ["Look.", ""]


def test_reasoning_means_the_same_under_both_of_its_names(battery: Battery, script: Script) -> None:
    call = {"id": "a1", "type": "function", "function": {"name": "get_weather", "arguments": '{"location": "Berlin"}'}}
    traces, bodies = [], []
    for names in (["reasoning"], ["reasoning_content"], ["reasoning", "reasoning_content"]):
        message = {"content": None, "tool_calls": [call], **dict.fromkeys(names, "Look.")}
        sent: list[dict[str, Any]] = []
        traces.append(hold(battery, script([reply_of_message(message), "Cold."], sent)))
        bodies.append(sent[1]["messages"])
    assert traces[0] == traces[1] == traces[2]
    assert bodies[0] == bodies[1] == bodies[2]
    assert traces[0].turns[0].reasoning == "Look."


def test_the_timed_clients_record_and_a_whole_message_are_read_alike() -> None:
    flat = [{"id": "a1", "name": "get_weather", "arguments": '{"location": "Berlin"}'}]
    nested = [{"id": "a1", "type": "function", "function": {"name": "get_weather", "arguments": flat[0]["arguments"]}}]
    result = RequestResult(ok=True, content="", reasoning="Look.", tool_calls=flat, prompt_tokens=7)
    message = {"content": None, "reasoning_content": "Look.", "tool_calls": nested}
    assert reply_of_result(result) == reply_of_message(message, usage={"prompt_tokens": 7})
    failed = reply_of_result(RequestResult(ok=False, error="http_500", error_detail="boom"))
    assert failed.error == "http_500: boom"


def test_a_model_that_never_stops_calling_is_stopped_after_eight_turns(battery: Battery, script: Script) -> None:
    sent: list[dict[str, Any]] = []
    trace = hold(battery, script([Reply(calls=[WEATHER])], sent))
    assert (len(sent), len(trace.turns), trace.status) == (8, 8, "exhausted")
    assert trace.turns[-1].calls[0].result


def test_a_reply_full_of_calls_ends_the_conversation(battery: Battery, script: Script) -> None:
    trace = hold(battery, script([Reply(calls=[WEATHER] * 5000), "Cold."]))
    assert trace.status == "error"
    assert "5000 tool calls" in (trace.error or "")
    assert len(trace.calls) == MAX_CALLS_PER_TURN


def test_a_failed_request_is_an_error_with_what_came_before(battery: Battery, script: Script) -> None:
    trace = hold(battery, script([Reply(calls=[WEATHER]), Reply(error="deadline: 120 s")]))
    assert (trace.status, trace.error, len(trace.turns)) == ("error", "deadline: 120 s", 1)
    for rules in VARIANTS:
        scored = score(trace, battery, rules)
        assert (scored.label, scored.points) == ("error", 0)
        assert "deadline: 120 s" in scored.reason


def test_a_dead_serve_ends_the_run_not_the_conversation(battery: Battery) -> None:
    async def send(*_: Any) -> Reply:
        raise TargetDiedError("gone")

    with pytest.raises(TargetDiedError):
        hold(battery, send)


def test_a_truncated_answer_is_diagnosed(battery: Battery, script: Script) -> None:
    trace = hold(battery, script([Reply(content="It is", finish_reason="length")]))
    assert score(trace, battery, "v1-jasl").diagnoses == ["truncated"]


def test_tool_markup_in_the_text_is_diagnosed(battery: Battery, script: Script) -> None:
    trace = hold(battery, script(['<｜DSML｜invoke name="get_weather">']))
    scored = score(trace, battery, "v1-jasl")
    assert (scored.points, scored.diagnoses) == (0, ["markup_leak"])


json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "content": json_values,
        "reasoning": json_values,
        "reasoning_content": json_values,
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "id": json_values,
                    "name": json_values,
                    "function": st.fixed_dictionaries(
                        {},
                        optional={
                            "name": st.sampled_from([tool.name for tool in BATTERY.tools]) | json_values,
                            "arguments": json_values.map(json.dumps) | json_values,
                        },
                    ),
                },
            )
            | json_values,
            max_size=3,
        )
        | json_values,
    },
)


@given(st.lists(messages, min_size=1, max_size=4), st.sampled_from(list(BATTERY.files)))
def test_whatever_comes_back_the_loop_ends_with_a_trace_that_can_be_stored_and_scored(
    replies: list[dict[str, Any]], name: str
) -> None:
    waiting = list(replies)

    async def send(history: list[dict[str, Any]], tools: list[dict[str, Any]], mode: Mode) -> Reply:
        msgspec.json.encode({"messages": history, "tools": tools})  # what a client would do
        return reply_of_message(waiting.pop(0) if len(waiting) > 1 else waiting[0])

    trace = hold(BATTERY, send, name)
    assert load_traces(dump_traces([trace])) == [trace]
    for rules in VARIANTS:
        assert score(trace, BATTERY, rules).points in (0, 1, 2)
