"""Turns pydantic's error locations into lines a person can act on: where, what is wrong, what is allowed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ds4bench.spec.document import child, key_node, to_plain, where
from ds4bench.spec.schema import Schema, allowed, noun, resolve, spec_schema

_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}
_LENGTH = {"too_short", "too_long", "string_too_short", "string_too_long", "string_pattern_mismatch"}


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """``; did you mean 'request'?`` or nothing."""
    close = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def explain(error: ValidationError, root: Node, workload: str) -> str:
    """One line a mistake, in the order of the file, for example
    ``gates/long-context.yaml:14: rules[0].margin: 'abc' is not a number; allowed: a number in 0..1``.
    """
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False, include_context=True):
        node, path, text = _explain_one(item, root, spec_schema(workload))
        lines.setdefault(path, f"{where(node)}: {path}: {text}" if path else f"{where(node)}: {text}")
    return "\n".join(lines.values())


def first_mistake(error: ValidationError, root: Node, origin: object, model: type[BaseModel]) -> str:
    """The line of the first mistake of a file of ``model``; of one that it inherits, the file alone that a user gave."""
    item = error.errors(include_url=False)[0]
    line = plain_line(item, root, model if len(item["loc"]) == 1 else None)
    return line if line.startswith(f"{origin}:") else f"{origin}: {line.partition(': ')[2]}"


def plain_line(item: Any, root: Node, model: type[BaseModel] | None) -> str:
    """A mistake in a file without kinds and unions: ``gates/suites/smoke.yaml:7: gates.1.repeats: what is wrong``.

    ``model`` is the one whose keys are allowed where one is unknown; None: they are not listed.
    """
    node, steps, parent = root, [], root
    for step in item["loc"]:
        below = child(node, step)
        if below is None or isinstance(node, ScalarNode):
            break
        parent, node = node, below
        steps.append(str(step))
    missing = [str(step) for step in item["loc"][len(steps) :]]
    path = ".".join([*steps, *missing])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        message = "missing"
    if item["type"] == "extra_forbidden":
        known = list(model.model_fields) if model else []
        allowed_keys = f"; allowed: {', '.join(known)}{did_you_mean(item['loc'][-1], known)}" if known else ""
        node, message = key_node(parent, item["loc"][-1]) or node, f"unknown key{allowed_keys}"
    return f"{where(node)}: {path}: {message}" if path else f"{where(node)}: {message}"


def unknown_workload(root: Node, known: Iterable[str]) -> str:
    """The line for a gate file whose ``workload`` is missing or not known."""
    node, names = child(root, "workload"), list(known)
    hint = f"; allowed: {', '.join(names)}"
    if node is None:
        return f"{where(root)}: workload: missing{hint}"
    value = to_plain(node)
    return f"{where(node)}: workload: {_shown(value)} is not known{hint}{did_you_mean(value, names)}"


def _explain_one(item: Any, root: Node, schema: Schema) -> tuple[Node, str, str]:
    kind, loc = item["type"], item["loc"]
    if kind == "extra_forbidden":
        node, path, schema = _walk(loc[:-1], root, schema)
        known, key = resolve(schema).get("properties", {}), loc[-1]
        hint = f"; allowed: {', '.join(known)}{did_you_mean(key, known)}"
        return key_node(node, key) or node, path, f"unknown key {key!r}{hint}"
    node, path, schema = _walk(loc, root, schema)
    if kind == "union_tag_invalid":
        node = child(node, resolve(schema)["discriminator"]["propertyName"]) or node
    return node, path, _problem(kind, item, schema)


def _problem(kind: str, item: Any, schema: Schema) -> str:
    value, hint = _shown(item["input"]), f"; allowed: {allowed(schema)}"
    if kind == "missing":
        return f"missing{hint}"
    if kind == "union_tag_not_found":
        return f"{item['ctx']['discriminator']} is missing{hint}"
    if kind == "union_tag_invalid":
        tags = resolve(schema)["discriminator"]["mapping"]
        tag = item["ctx"]["tag"]
        return f"the kind {tag!r} is not known; allowed: {', '.join(tags)}{did_you_mean(tag, tags)}"
    if kind == "literal_error" and "anyOf" not in schema:
        options = resolve(schema).get("enum", [resolve(schema).get("const")])
        return f"{value} is not known{hint}{did_you_mean(item['input'], map(str, options))}"
    if kind == "value_error":
        return str(item["ctx"]["error"])
    if kind in _OUT_OF_RANGE:
        return f"{value} is out of range{hint}"
    if kind in _LENGTH:
        return f"{value} does not fit{hint}"
    return f"{value} is not {noun(schema)}{hint}"


def _shown(value: object) -> str:
    try:
        text = repr(value) if isinstance(value, str) else json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _walk(loc: tuple[str | int, ...], root: Node, schema: Schema) -> tuple[Node, str, Schema]:
    """The deepest node, the path in words and the schema at a pydantic location.

    The tags of discriminated unions and the names of union members that pydantic puts into a location are no
    steps in the file: the first only chooses the schema, at the second the walk ends.
    """
    node, path = root, ""
    for step in loc:
        schema = resolve(schema)
        tags = schema.get("discriminator", {}).get("mapping", {})
        if step in tags:
            schema = {"$ref": tags[step]}
            continue
        if isinstance(step, int) and isinstance(node, SequenceNode) and "items" in schema:
            path, schema = f"{path}[{step}]", schema["items"]
        elif step in schema.get("properties", {}):
            path, schema = f"{path}.{step}" if path else str(step), schema["properties"][step]
        elif step in tags.values() or not isinstance(node, MappingNode) or "properties" not in schema:
            break
        node = child(node, step) or node
    return node, path, schema
