"""Telling reasoning from content: the cases that went wrong in real serves."""

from __future__ import annotations

import pytest

from ds4bench.embedded.chat.reasoning import ReasoningParser

CALLS = "<｜DSML｜tool_calls>"
INVOKE = '<｜DSML｜invoke name="'


def stream(*deltas: str, thinking: bool = True) -> list[list[tuple[str, str]]]:
    """What each delta gave, and last what the end gave."""
    parser = ReasoningParser(thinking=thinking)
    return [*[list(parser.feed(delta)) for delta in deltas], list(parser.finish())]


def whole(*deltas: str, thinking: bool = True) -> tuple[str, str]:
    parts = [part for step in stream(*deltas, thinking=thinking) for part in step]
    return tuple("".join(text for k, text in parts if k == kind) for kind in ("reasoning", "content"))  # type: ignore[return-value]


def test_reasoning_ends_at_the_end_tag() -> None:
    assert whole("why</think>so") == ("why", "so")


def test_a_delta_of_the_end_tag_alone_gives_nothing() -> None:
    assert stream("why", "</think>", "so") == [[("reasoning", "why")], [], [("content", "so")], []]


def test_an_end_tag_split_over_deltas_never_shows() -> None:
    assert stream("why</", "thi", "nk>so") == [[("reasoning", "why")], [], [("content", "so")], []]


def test_an_end_tag_within_a_delta_splits_it() -> None:
    assert stream("why</think>so") == [[("reasoning", "why"), ("content", "so")], []]


def test_a_tool_marker_alone_in_its_delta_ends_reasoning() -> None:
    assert stream("why", CALLS, "\n") == [[("reasoning", "why")], [("content", CALLS)], [("content", "\n")], []]


def test_a_tool_marker_within_a_delta_splits_it_and_is_content() -> None:
    assert stream(f"why{CALLS}x") == [[("reasoning", "why"), ("content", CALLS), ("content", "x")], []]


def test_a_tool_marker_split_over_deltas_is_content_as_a_whole() -> None:
    steps = stream("why<", "｜DSML｜", "tool", "_calls", ">", "x")
    assert steps == [[("reasoning", "why")], [], [], [], [("content", CALLS)], [("content", "x")], []]


@pytest.mark.parametrize(
    "marker", [CALLS, "<｜DSML｜toolcalls>", "<｜DSML｜tool>", INVOKE, '<｜DSML｜parameter name="']
)
def test_every_spelling_of_a_tool_marker_ends_reasoning(marker: str) -> None:
    assert whole(f"why{marker}f") == ("why", f"{marker}f")


def test_everything_before_the_marker_is_reasoning_also_its_newlines() -> None:
    assert whole(f"why\n\n{CALLS}") == ("why\n\n", CALLS)


def test_after_a_tool_marker_all_is_content_end_tags_too() -> None:
    rest = f"{INVOKE}f</think><think>more"
    assert whole(f"why{CALLS}", rest, "</think>end") == ("why", f"{CALLS}{rest}</think>end")


def test_the_end_tag_counts_when_it_comes_first() -> None:
    assert whole(f"why</think>so{CALLS}x</think>") == ("why", f"so{CALLS}x</think>")


def test_an_explicit_start_tag_makes_dsml_in_there_mere_talk() -> None:
    assert whole(f"<think>I could write {CALLS} now</think>so") == (f"I could write {CALLS} now", "so")


def test_after_the_explicit_region_tool_markers_count_again() -> None:
    assert whole(f"<think>a{CALLS}b</think>c{CALLS}</think>") == (f"a{CALLS}b", f"c{CALLS}</think>")


def test_a_doubled_start_tag_never_shows() -> None:
    assert whole("<think><think>why</think>so") == ("why", "so")


def test_a_false_alarm_is_reasoning_with_the_next_delta() -> None:
    assert stream("if a <", "｜DSML", " b") == [[("reasoning", "if a ")], [], [("reasoning", "<｜DSML b")], []]
    assert stream("a</thin", "ker>") == [[("reasoning", "a")], [("reasoning", "</thinker>")], []]


def test_what_is_held_at_the_end_is_reasoning() -> None:
    assert stream("why</thi") == [[("reasoning", "why")], [("reasoning", "</thi")]]
    assert stream("why<｜DSML｜tool") == [[("reasoning", "why")], [("reasoning", "<｜DSML｜tool")]]


def test_a_closing_tag_in_reasoning_closes_nothing() -> None:
    assert whole("why</｜DSML｜invoke> so") == ("why so", "")


def test_chat_mode_is_content_from_the_start_and_a_stray_end_tag_goes() -> None:
    assert whole("so</think> it is", thinking=False) == ("", "so it is")
    assert whole("a<think>b</think>c", thinking=False) == ("b", "ac")


def test_whether_in_reasoning_is_known_between_deltas() -> None:
    parser = ReasoningParser(thinking=True)
    seen = []
    for delta in ("why", "</think>", "so"):
        parser.feed(delta)
        seen.append(parser.in_reasoning)
    assert seen == [True, False, False]
