"""Arguments of a tool call: from the model's text to a JSON object, and what is wrong with it by the tool's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def parse_arguments(text: str) -> tuple[dict[str, Any], bool]:
    """The arguments and whether the text was malformed. Empty text is an empty object, as both benchmarks read it;
    anything that is not a JSON object counts as ``{}`` and is malformed.
    """
    if not text.strip():
        return {}, False
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return {}, True
    return (value, False) if isinstance(value, dict) else ({}, True)


def schema_mistakes(tools: Sequence[dict[str, Any]], name: str, arguments: dict[str, Any]) -> list[str]:
    """What is wrong with a call by the schemas of ``tools`` (OpenAI's form); empty if nothing is."""
    schema = next((tool["function"]["parameters"] for tool in tools if tool["function"]["name"] == name), None)
    if schema is None:
        return [f"there is no tool {name!r}"]
    properties = schema["properties"]
    missing = [f"{key} is missing" for key in schema["required"] if key not in arguments]
    unknown = [f"{key!r} is no argument of {name}" for key in arguments if key not in properties]
    wrong = [
        f"{key}: {problem}"
        for key, value in arguments.items()
        if key in properties and (problem := _problem(properties[key], value))
    ]
    return [*missing, *unknown, *wrong]


def _problem(schema: dict[str, Any], value: Any) -> str | None:
    wanted = schema.get("type")
    if wanted in _TYPES and (
        not isinstance(value, _TYPES[wanted]) or (isinstance(value, bool) != (wanted == "boolean"))
    ):
        return f"is no {wanted}"
    if "enum" in schema and value not in schema["enum"]:
        return f"is none of {', '.join(map(str, schema['enum']))}"
    if isinstance(value, list) and "items" in schema and any(_problem(schema["items"], item) for item in value):
        return "has an item of the wrong kind"
    return None
