"""Both parsers together: any text, cut anywhere, gives the same, and no marker shows."""

from __future__ import annotations

import itertools
import json
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ds4bench.embedded.chat.dsml import ToolCallDelta
from ds4bench.embedded.chat.encoding import Thinking, render_reply
from ds4bench.embedded.chat.markers import CLOSERS, INVOKE, OPENERS, PARAMETER, STARTS
from ds4bench.embedded.chat.parse import Delta, ParsedReply, ReplyParser, TextDelta, parse_reply
from ds4bench.embedded.chat.special_tokens import END_THINK, EOS, THINK

BUSY = [HealthCheck.too_slow]  # a busy machine says nothing about the code
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}, "b": {}}}}},
    {"type": "function", "function": {"name": "g"}},
]
DSML_TAGS = (*OPENERS, *CLOSERS)
ALL = (*DSML_TAGS, THINK, END_THINK)

marker = st.sampled_from(ALL)
beginning = marker.flatmap(lambda m: st.integers(1, len(m)).map(lambda n: m[:n]))
ending = marker.flatmap(lambda m: st.integers(0, len(m) - 1).map(lambda n: m[n:]))
glue = st.sampled_from(
    ['f">\n', 'a" string="true">', 'n" string="false">', 'x">', "\n", "\n\n", "{", '{"a": 1}', "12", '"', ">", "arguments",
     'arguments" string="true">', '{"a": "\\ud83d"}', "｜DSML｜", "<", "</", "é｜", "input"]
)  # fmt: skip
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
call = st.tuples(st.sampled_from(["f", "g", "x"]), st.sampled_from(["a", "b", "input"]), text).map(
    lambda t: f'{INVOKE}{t[0]}">\n{PARAMETER}{t[1]}" string="true">{t[2]}'
)
replies = st.lists(st.one_of(marker, beginning, ending, glue, text, call), max_size=14).map("".join)


def run(pieces: list[str], *, thinking: bool, tools: bool, opened: str = "") -> list[Delta]:
    ids = itertools.count()
    parser = ReplyParser(
        thinking=thinking, tools=TOOLS if tools else (), opened=opened, make_id=lambda: f"id{next(ids)}"
    )
    return [delta for piece in pieces for delta in parser.feed(piece)] + parser.finish()


def gathered(deltas: list[Delta]) -> ParsedReply:
    reply = ParsedReply()
    for delta in deltas:
        reply.add(delta)
    return reply


def strings(value: Any) -> list[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, dict):
        return [*value, *strings(list(value.values()))]
    if isinstance(value, list):
        return [string for item in value for string in strings(item)]
    return [value] if isinstance(value, str) else []


def cut(reply: str, cuts: list[int]) -> list[str]:
    places = [0, *sorted(c % (len(reply) + 1) for c in cuts), len(reply)]
    return [reply[a:b] for a, b in itertools.pairwise(places)]


@settings(max_examples=500, suppress_health_check=BUSY)
@given(replies, st.lists(st.integers(0, 10_000), max_size=12), st.booleans(), st.booleans())
@example("x" + STARTS[0] + INVOKE + 'f">', [1, 2, 3, 4, 5, 9, 14, 15, 30], True, True)
def test_any_split_gives_what_the_whole_gives(reply: str, cuts: list[int], thinking: bool, tools: bool) -> None:
    whole = gathered(run([reply], thinking=thinking, tools=tools))
    assert gathered(run(cut(reply, cuts), thinking=thinking, tools=tools)) == whole
    assert gathered(run(list(reply), thinking=thinking, tools=tools)) == whole


@settings(max_examples=500, suppress_health_check=BUSY)
@given(replies, st.booleans())
def test_no_marker_shows_and_arguments_are_json_objects(reply: str, thinking: bool) -> None:
    deltas = run([reply], thinking=thinking, tools=True)
    for delta in deltas:
        if isinstance(delta, TextDelta):
            quoting = delta.kind == "reasoning" and THINK in reply  # the reply opened it itself: DSML in there is talk
            assert not [m for m in DSML_TAGS if m in delta.text and not quoting]
            assert delta.kind == "content" or not {THINK, END_THINK} & {m for m in ALL if m in delta.text}
    for made in gathered(deltas).tool_calls:
        arguments = json.loads(made.arguments)
        assert isinstance(arguments, dict)
        assert not [m for m in DSML_TAGS for string in strings([made.name, arguments]) if m in string]


@settings(max_examples=500, suppress_health_check=BUSY)
@given(st.lists(st.one_of(marker, st.text("ab\n", max_size=3)), max_size=14).map("".join), st.booleans())
def test_no_think_tag_shows_in_content(reply: str, thinking: bool) -> None:
    """Of whole tags only: taken out of ``<</think>/think>``, one leaves the pieces of another, here as in any engine."""
    content = gathered(run([reply], thinking=thinking, tools=True)).content
    assert THINK not in content
    assert END_THINK not in content


@settings(max_examples=500, suppress_health_check=BUSY)
@given(replies)
def test_each_delta_is_about_the_last_call_and_says_its_name_once(reply: str) -> None:
    calls = 0
    for delta in run(list(reply), thinking=True, tools=True):
        if isinstance(delta, ToolCallDelta):
            calls += delta.id is not None
            assert delta.index == calls - 1
            assert (delta.id is None) == (delta.name is None)
        else:
            assert delta.text
            assert calls == 0  # text after a call is dropped


plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<｜\n"), max_size=12)
value = st.recursive(st.none() | st.booleans() | st.integers(-999, 999) | plain, lambda v: st.lists(v, max_size=3))
arguments = st.dictionaries(st.text("abxyz_", min_size=1, max_size=5), value, max_size=3)
messages = st.fixed_dictionaries(
    {"content": plain, "reasoning": plain, "calls": st.lists(st.tuples(st.sampled_from(["f", "g"]), arguments), max_size=3)}
)  # fmt: skip


@settings(max_examples=300, suppress_health_check=BUSY)
@given(messages, st.booleans())
def test_what_was_rendered_is_read_back(message: dict[str, Any], thinking: bool) -> None:
    calls = [
        {"id": f"id{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
        for i, (name, args) in enumerate(message["calls"])
    ]
    sent = {"role": "assistant", **message, "tool_calls": calls}
    written = render_reply(sent, Thinking(thinking)).removesuffix(EOS)
    read = gathered(run([written], thinking=thinking, tools=True))
    assert (read.content, read.reasoning) == (message["content"], message["reasoning"] if thinking else "")
    assert [(made.name, json.loads(made.arguments)) for made in read.tool_calls] == message["calls"]


def test_a_reply_may_begin_inside_a_call_that_the_prompt_opened() -> None:
    block = f"\n\n{STARTS[0]}\n"
    rest = f'{PARAMETER}a" string="true">1</｜DSML｜parameter>\n</｜DSML｜invoke>'
    named = parse_reply(rest, thinking=False, tools=TOOLS, opened=f'{block}{INVOKE}f">\n')
    required = parse_reply(f'{INVOKE}f">\n{rest}', thinking=False, tools=TOOLS, opened=block)
    for reply in (named, required):
        assert [(made.name, made.arguments) for made in reply.tool_calls] == [("f", '{"a": "1"}')]
        assert (reply.reasoning, reply.content) == ("", "")


def test_without_tools_dsml_is_content() -> None:
    reply = parse_reply(f"why{STARTS[0]}x", thinking=True)
    assert (reply.reasoning, reply.content, reply.tool_calls) == ("why", f"{STARTS[0]}x", [])
