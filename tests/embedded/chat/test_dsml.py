"""The tool parser: the right form, and each tolerated wrong one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from ds4bench.embedded.chat.dsml import DsmlParser, ToolCallDelta

PROPERTIES = {"f": ["a", "b"], "g": ["arguments"], "bare": []}


def parser() -> DsmlParser:
    numbers = itertools.count()
    return DsmlParser(PROPERTIES, lambda: f"id{next(numbers)}")


def parse(text: str, size: int | None = None) -> tuple[str, list[tuple[str, Any]]]:
    """(content, [(name, arguments)]), fed whole or in pieces of ``size``."""
    machine = parser()
    pieces = [text] if size is None else [text[i : i + size] for i in range(0, len(text), size)]
    events = [event for piece in pieces for event in machine.feed(piece)] + machine.finish()
    content, calls = "", []
    for event in events:
        if isinstance(event, str):
            content += event
        elif event.id is not None:
            assert (event.index, event.id) == (len(calls), f"id{len(calls)}")
            calls.append([event.name, event.arguments])
        else:
            assert event.index == len(calls) - 1
            calls[-1][1] += event.arguments
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


def block(inner: str, name: str = "tool_calls") -> str:
    return f"<｜DSML｜{name}>\n{inner}\n</｜DSML｜{name}>"


def invoke(inner: str = "", name: str = "f") -> str:
    return f'<｜DSML｜invoke name="{name}">\n{inner}\n</｜DSML｜invoke>'


def param(name: str, value: str, attributes: str = ' string="true"') -> str:
    return f'<｜DSML｜parameter name="{name}"{attributes}>{value}</｜DSML｜parameter>'


JSON = ' string="false"'
F_A1 = ("f", {"a": "1"})

CASES = {
    "the right form": (block(invoke(param("a", "1"))), "", [F_A1]),
    "text and a blank line": ("Let me see.\n\n" + block(invoke(param("a", "1"))), "Let me see.", [F_A1]),
    "only the blank line goes": ("Look:\n\n\n" + block(invoke()), "Look:\n", [("f", {})]),
    "no arguments": (block(invoke()), "", [("f", {})]),
    "two calls": (block(invoke(param("a", "1")) + "\n" + invoke(name="g")), "", [F_A1, ("g", {})]),
    "types": (
        block(invoke("\n".join([param("n", "3", JSON), param("l", '[1, {"x": null}]', JSON), param("t", "true", JSON)]))),
        "",
        [("f", {"n": 3, "l": [1, {"x": None}], "t": True})],
    ),
    "strings are raw": (block(invoke(param("a", ' "x"\n\\n<b>{1}</b> '))), "", [("f", {"a": ' "x"\n\\n<b>{1}</b> '})]),
    "a number as a string": (block(invoke(param("a", "12"))), "", [("f", {"a": "12"})]),
    "not JSON after all": (block(invoke(param("a", "{oops", JSON))), "", [("f", {"a": "{oops"})]),
    "not a number": (block(invoke(param("a", "NaN", JSON))), "", [("f", {"a": "NaN"})]),
    "empty JSON": (block(invoke(param("a", "", JSON))), "", [("f", {"a": ""})]),
    "JSON with space around": (block(invoke(param("a", "\n 7 \n", JSON))), "", [("f", {"a": 7})]),
    "toolcalls": (block(invoke(param("a", "1")), "toolcalls"), "", [F_A1]),
    "tool": (block(invoke(param("a", "1")), "tool"), "", [F_A1]),
    "no string attribute: JSON": (block(invoke(param("a", "12", ""))), "", [("f", {"a": 12})]),
    "no string attribute: literal": (block(invoke(param("a", "Paris", ""))), "", [("f", {"a": "Paris"})]),
    "no end of a parameter": (
        block(invoke(f'<｜DSML｜parameter name="a" string="true">1\n{param("b", "2")}')),
        "",
        [("f", {"a": "1", "b": "2"})],
    ),
    "no end of the last parameter": (
        block('<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="a" string="true">1\n</｜DSML｜invoke>'), "", [F_A1],
    ),
    "no block": ("Look.\n\n" + invoke(param("a", "1")) + "\nDone.", "Look.", [F_A1]),
    "invoke ended by the block": (
        f'<｜DSML｜tool_calls>\n<｜DSML｜invoke name="f">\n{param("a", "1")}\n</｜DSML｜tool_calls>', "", [F_A1],
    ),
    "invoke ended by the next": (
        block(f'<｜DSML｜invoke name="f">\n{param("a", "1")}\n' + invoke(name="g")), "", [F_A1, ("g", {})],
    ),
    "text after the block": (block(invoke(param("a", "1"))) + "\n\nAll done.", "", [F_A1]),
    "two blocks": (block(invoke(param("a", "1"))) + " and " + block(invoke(name="g")), "", [F_A1, ("g", {})]),
    "a JSON object": (block(invoke('{"a": "1", "n": [2]}')), "", [("f", {"a": "1", "n": [2]})]),
    "a broken JSON object": (block(invoke('{"a": ')), "", [("f", {})]),
    "a broken JSON object, then parameters": (block(invoke('{"a": ' + param("a", "1"))), "", [F_A1]),
    "an object, then parameters": (block(invoke('{"a": "1"}' + param("b", "2"))), "", [F_A1]),
    "wrapped object": (block(invoke(param("arguments", '{"a": "1"}', JSON))), "", [F_A1]),
    "wrapped text": (block(invoke(param("input", ' {"a": "1"} '))), "", [F_A1]),
    "not lone, so no wrapper": (
        block(invoke(param("input", '{"a": "1"}', JSON) + param("b", "2"))),
        "",
        [("f", {"input": {"a": "1"}, "b": "2"})],
    ),
    "not lone, as text": (
        block(invoke(param("input", '{"a"') + param("b", "2"))), "", [("f", {"input": '{"a"', "b": "2"})],
    ),
    "a property of that name": (
        block(invoke(param("arguments", '{"a": 1}', JSON), "g")), "", [("g", {"arguments": {"a": 1}})],
    ),
    "unknown names inside": (block(invoke(param("input", '{"z": 1}', JSON))), "", [("f", {"input": {"z": 1}})]),
    "no schema to go by": (block(invoke(param("input", '{"a": 1}', JSON), "h")), "", [("h", {"input": {"a": 1}})]),
    "the same name twice": (block(invoke(param("a", "1") + param("a", "2") + param("a", "3", JSON))), "", [F_A1]),
    "a stray end": ("so</｜DSML｜invoke> it is</｜DSML｜tool_calls>", "so it is", []),
    "a parameter of nothing": ("so\n\n" + param("a", "1") + " x", "so", []),
    "a false alarm": ("a <｜DSML｜tools> b\n\n<", "a <｜DSML｜tools> b\n\n<", []),
    "a nameless invoke": (block(invoke(param("a", "1"), "")), "", []),
    "a marker in a name": (block(f'<｜DSML｜invoke name="f{invoke(param("a", "1"))}'), "", [F_A1]),
    "cut in a value": ('<｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="true">1', "", [F_A1]),
    "cut in a tag": ('<｜DSML｜invoke name="f"><｜DSML｜parameter name="a" string="true">1</｜DSML｜par', "", [F_A1]),
    "cut in a start tag": ("so\n\n<｜DSML｜tool_c", "so", []),
    "cut in a name": ('so <｜DSML｜invoke name="f', "so ", []),
    "cut in an object": ('<｜DSML｜invoke name="f">{"a": "1"', "", [("f", {})]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [None, 1, 7])
def test_forms(name: str, size: int | None) -> None:
    text, content, calls = CASES[name]
    assert parse(text, size) == (content, calls)


def test_a_string_grows_as_it_comes_and_a_number_comes_whole() -> None:
    machine = parser()
    steps = ['<｜DSML｜invoke name="f', '">\n<｜DSML｜parameter name="a" string="true">Pa', 'ri"s', "</｜DSML｜para"]
    steps += ['meter>\n<｜DSML｜parameter name="n" string="false">1', "2", "</｜DSML｜parameter>\n</｜DSML｜invoke>"]
    got = [machine.feed(step) for step in steps]
    assert got == [
        [],
        [ToolCallDelta(0, id="id0", name="f"), ToolCallDelta(0, '{"a": "'), ToolCallDelta(0, "Pa")],
        [ToolCallDelta(0, 'ri\\"s')],
        [],
        [ToolCallDelta(0, '"')],
        [],
        [ToolCallDelta(0, ', "n": 12'), ToolCallDelta(0, "}")],
    ]
    assert machine.finish() == []


def test_deep_nesting_and_endless_digits_are_literals() -> None:
    for value in ("[" * 100_000, "9" * 5_000):
        assert parse(block(invoke(param("a", value, JSON)))) == ("", [("f", {"a": value})])


def test_ids_are_new_each_time() -> None:
    events = [event for _ in range(2) for event in DsmlParser().feed(block(invoke()))]
    ids = [event.id for event in events if isinstance(event, ToolCallDelta) and event.id]
    assert len(set(ids)) == 2
    assert all(i.startswith("call_") for i in ids)
