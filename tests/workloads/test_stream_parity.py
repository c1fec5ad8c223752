"""When two replies are the same, when markup shows, and files of prompts that are wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.core import RequestResult
from ds4bench.errors import WorkloadError
from ds4bench.spec.load import load_gate
from ds4bench.workloads.stream_parity import MARKUP, THINKING_TAGS, agree, compare, read_data, said

ROOT = Path(__file__).parents[2]
DSML = "｜DSML｜"
BLOCK = f'<{DSML}tool_calls>\n<{DSML}invoke name="f">\n<{DSML}parameter name="a" string="true">x</{DSML}parameter>\n'


def reply(content: str = "Hi", reasoning: str = "", *calls: tuple[str, str]) -> RequestResult:
    made = [{"id": f"call-{id(call)}", "name": call[0], "arguments": call[1]} for call in calls]
    return RequestResult(ok=True, content=content, reasoning=reasoning, tool_calls=made)


def test_ids_of_calls_and_spaces_in_arguments_do_not_count_but_everything_else_does() -> None:
    one = reply("a", "b", ("f", '{"x": 1, "y": [2]}'))
    assert said(one) == said(reply("a", "b", ("f", '{"y":[2],"x":1}')))
    for other in (
        reply("a ", "b", ("f", '{"x": 1, "y": [2]}')),
        reply("a", "", ("f", '{"x": 1, "y": [2]}')),
        reply("a", "b", ("g", '{"x": 1, "y": [2]}')),
        reply("a", "b", ("f", '{"x": "1", "y": [2]}')),
        reply("a", "b", ("f", '{"x": 1, "y": [2]')),
        reply("a", "b"),
        reply("a", "b", ("f", '{"x": 1, "y": [2]}'), ("f", "{}")),
    ):
        assert not agree([one], [other])


def test_a_difference_that_stays_is_one_of_parsing_and_says_where() -> None:
    answer = compare([reply("I look.<")] * 2, [reply("I look.")] * 2, MARKUP)
    assert answer.scores == {"parity": 0.0, "clean": 1.0}
    assert answer.detail["differences"] == ["content from 7: streamed '<', whole ''"]


def test_a_serve_that_does_not_repeat_itself_shows_nothing() -> None:
    for streamed, whole in ((["a", "b"], ["c", "c"]), (["a", "a"], ["b", "c"]), (["a", "b"], ["b", "b"])):
        answer = compare([reply(t) for t in streamed], [reply(t) for t in whole], MARKUP)
        assert answer.scores == {"clean": 1.0}
        assert "does not repeat" in answer.detail["unsteady"]


def test_replies_that_agree_at_last_are_the_same() -> None:
    assert compare([reply("a"), reply("b")], [reply("b"), reply("a")], MARKUP).scores["parity"] == 1.0


@pytest.mark.parametrize("piece", [BLOCK[:n] for n in range(3, len(BLOCK), 7)])
def test_any_beginning_of_a_call_in_the_content_is_a_leak(piece: str) -> None:
    answer = compare([reply(f"I look. {piece}")], [reply(f"I look. {piece}")], MARKUP)
    assert answer.scores == {"parity": 1.0, "clean": 0.0}
    assert answer.detail["leaks"][0].startswith("content: ...")


@pytest.mark.parametrize(
    "text", ["</think>", "x<think>", "<｜Assistant｜>", f"{DSML}tool", "DSML｜", "</invoke>", "<tool_call>"]
)
def test_markup_in_the_reasoning_is_a_leak(text: str) -> None:
    assert compare([reply("a", text)], [reply("a", text)], MARKUP).scores["clean"] == 0.0


def test_without_tools_only_thinking_tags_are_leaks() -> None:
    for text, clean in ((BLOCK, 1.0), ("</think>", 0.0)):
        assert compare([reply(text)], [reply(text)], THINKING_TAGS).scores["clean"] == clean


@given(st.text(alphabet="abc <>/=|{}\"'&;\n1你é", max_size=80))
def test_plain_text_is_no_markup(text: str) -> None:
    assert compare([reply(text)], [reply(text)], MARKUP).scores == {"parity": 1.0, "clean": 1.0}


def data(path: Path | None = None, *overrides: str) -> Any:
    gate = load_gate("stream-parity", overrides=overrides, directory=ROOT / "gates")
    return read_data(gate.spec, str(path) if path else None)


def test_the_projects_prompts_offer_tools_and_ask_for_no_markup() -> None:
    found = data()
    assert sum(item["calls"] for item in found.items) >= 4
    assert all(item["tools"] for item in found.items if item["calls"])
    texts = [message["content"] for item in found.items for message in item["messages"]]
    assert not [text for text in texts if MARKUP.search(text)]
    assert found.identity.sha256 != data(None, "options.prompts=[one-call]").identity.sha256


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tools: {}\nprompts:\n- id: a\n  message: []\n", r"p\.yaml:3: prompts\.0\.messages: Field required"),
        ("tools: {}\nprompts:\n- {id: a, messages: [{role: user}], tools: [f]}\n", "no tool is called 'f'"),
        ("tools: {}\nprompts: [{id: a, messages: [{}]}, {id: a, messages: [{}]}]\n", "two prompts are called a"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(WorkloadError, match=words):
        data(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("request.temperature=0.5", "temperature: 0"),
        ("request.thinking=true", "matrix.mode says who thinks"),
        ("options.prompts=[nothing]", "no prompt 'nothing'; known: one-sentence"),
    ],
)
def test_a_request_that_contradicts_the_gate_is_refused(override: str, words: str) -> None:
    with pytest.raises(WorkloadError, match=words):
        data(None, override)
