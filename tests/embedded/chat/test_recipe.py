"""Against ``deepseek-recipe``, DeepSeek's own library: its response parser, and what own code adds to its rendering."""

from __future__ import annotations

import json
from typing import Any

import deepseek_recipe as recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ds4bench.embedded.chat.encoding import Thinking, render, render_reply
from ds4bench.embedded.chat.parse import parse_reply
from ds4bench.embedded.chat.special_tokens import EOS

BUSY = [HealthCheck.too_slow]  # a busy machine says nothing about the code
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")]
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<｜\r\n"), min_size=1, max_size=12)
value = st.booleans() | st.integers(-999, 999) | words | st.lists(st.integers(0, 9), max_size=3)
calls = st.lists(
    st.tuples(st.sampled_from("fg"), st.dictionaries(st.text("abc", min_size=1), value, max_size=3)), max_size=3
)
replies = st.fixed_dictionaries({"reasoning": words, "content": words, "calls": calls})


def message(reply: dict[str, Any]) -> dict[str, Any]:
    tool_calls = [
        {"id": f"id{i}", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}
        for i, (name, args) in enumerate(reply["calls"])
    ]
    return {"role": "assistant", **reply, "tool_calls": tool_calls}


def as_recipe_reads(text: str, *, thinking: bool, piece: int) -> dict[str, Any]:
    conversation = recipe.Conversation([recipe.UserMessage("x")], thinking_mode=thinking)
    request = recipe.ConversationRequest(conversation, recipe.ModelVersion.DeepseekV4Pro)
    stage = recipe.ThinkingInitialStage.ReasoningStart if thinking else None
    processor = recipe.StreamProcessor(
        recipe.ChatCompletionRequest.chunk_generator(request, "id", "m"),
        recipe.ParsingOptions(thinking_initial_stage=stage),
    )
    chunks = [*processor.push(recipe.InferenceChunk.ready())]
    for start in range(0, len(text), piece):
        chunks += processor.push(recipe.InferenceChunk.text(text[start : start + piece], 1))
    chunks += processor.push(recipe.InferenceChunk.finish(recipe.InferenceFinishReason.Stop)) + processor.finish()
    response = recipe.ChatCompletionResponse("id", "m", 0, 0, 0)
    for chunk in chunks:
        response.accumulate(chunk)
    result: dict[str, Any] = json.loads(response.to_json())["choices"][0]["message"]
    return result


@settings(max_examples=200, suppress_health_check=BUSY)
@given(replies, st.booleans(), st.integers(1, 9))
def test_well_formed_replies_are_read_alike(reply: dict[str, Any], thinking: bool, piece: int) -> None:
    text = render_reply(message(reply), Thinking(thinking)).removesuffix(EOS)
    theirs = as_recipe_reads(text, thinking=thinking, piece=piece)
    ours = parse_reply(text, thinking=thinking, tools=TOOLS)
    assert ours.content == (theirs["content"] or "")
    assert ours.reasoning == (theirs.get("reasoning_content") or "")
    made = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in theirs.get("tool_calls") or ()
    ]
    assert [(call.name, json.loads(call.arguments)) for call in ours.tool_calls] == made


def test_a_call_without_the_end_of_reasoning_is_read_alike() -> None:
    text = 'why<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
    theirs, ours = as_recipe_reads(text, thinking=True, piece=3), parse_reply(text, thinking=True, tools=TOOLS)
    assert theirs["reasoning_content"] == ours.reasoning == "why"
    assert [call["function"]["name"] for call in theirs["tool_calls"]] == [call.name for call in ours.tool_calls]


@settings(max_examples=200, suppress_health_check=BUSY)
@given(words, words, replies, words)
def test_keeping_reasoning_without_tools_is_their_rendering_less_the_tools(
    system: str, first: str, reply: dict[str, Any], last: str
) -> None:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": first}, message(reply)]
    messages += [{"role": "tool", "content": "r", "tool_call_id": f"id{i}"} for i in range(len(reply["calls"]))]
    messages.append({"role": "user", "content": last})
    kept = render(messages, Thinking(True, "low", drop_earlier=False)).text
    with_tools = render(messages, Thinking(True, "low"), tools=TOOLS).text
    section = with_tools[with_tools.index("\n\n## Tools") : with_tools.index("<｜User｜>")]
    assert kept == with_tools.replace(section, "", 1)
    assert f"<think>{reply['reasoning']}</think>" in kept
