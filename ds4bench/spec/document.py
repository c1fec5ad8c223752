"""A gate file as a tree of YAML nodes that remember where they came from.

Profiles and ``--set`` overrides are merged on *nodes*, not on plain values, so that a mistake found later by
pydantic can be told as ``file:line`` of the overlay that holds it, or as the override that brought it.
Scalars follow the YAML 1.2 core schema: ``no`` and ``on`` are text, ``1e-2`` is a number, ``1:30`` is text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import yaml
from yaml.error import Mark
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ds4bench.errors import SpecError

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {_TAG + kind for kind in ("str", "int", "float", "bool", "null", "seq", "map")}


class _CoreSchemaLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _kind, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.inf|\.nan)$",
        "-+.0123456789",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _CoreSchemaLoader.add_implicit_resolver(_TAG + _kind, re.compile(_pattern), list(_first))


def where(node: Node) -> str:
    """``file:line`` of a node, or the override that it came from."""
    name = str(node.start_mark.name)
    return name if name.startswith("--") else f"{name}:{node.start_mark.line + 1}"


def compose(text: str, origin: str) -> Node:
    """The checked node tree of a YAML text; ``origin`` is what error messages call it.

    Raises SpecError for bad syntax, keys given twice, keys that are no text, aliases, merge keys and foreign
    tags.
    """
    try:
        loader = _CoreSchemaLoader(text)
        loader.name = origin
        node = loader.get_single_node()
        if node is None:
            return ScalarNode(_TAG + "null", "", Mark(origin, 0, 0, 0, None, 0))
        _check(node, set())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = origin if mark is None or origin.startswith("--") else f"{origin}:{mark.line + 1}"
        raise SpecError(f"{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{origin}: not valid YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise SpecError(f"{origin}: not valid YAML: nested too deeply") from None
    return node


def _check(node: Node, seen: set[int]) -> None:
    if id(node) in seen:
        raise SpecError(f"{where(node)}: an alias (*name) points here; write the value out, or use a profile")
    seen.add(id(node))
    if node.tag not in _PLAIN_TAGS:
        raise SpecError(f"{where(node)}: the tag {node.tag.replace(_TAG, '!!')} is not allowed in a gate file")
    if isinstance(node, SequenceNode):
        for item in node.value:
            _check(item, seen)
    elif isinstance(node, MappingNode):
        first: dict[str, Node] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode) or key.tag != _TAG + "str":
                raise SpecError(f"{where(key)}: a key must be plain text; put it in quotes if it is meant")
            if key.value == "<<":
                raise SpecError(f"{where(key)}: merge keys (<<) are not supported; use a profile")
            if key.value in first:
                line = first[key.value].start_mark.line + 1
                raise SpecError(f"{where(key)}: {key.value}: the key stands here twice, first in line {line}")
            first[key.value] = key
            _check(value, seen)
    else:
        to_plain(node)


def to_plain(node: Node) -> Any:
    """Plain Python values of a node tree."""
    try:
        return _CoreSchemaLoader("").construct_document(node)
    except (ValueError, yaml.YAMLError):
        raise SpecError(f"{where(node)}: {node.value!r} cannot be read as {node.tag.replace(_TAG, '')}") from None


def child(node: Node, step: str | int) -> Node | None:
    """A mapping's value, or a list's item by index or by its ``name``; None if there is none."""
    if isinstance(node, MappingNode) and isinstance(step, str):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, SequenceNode):
        index = _index(node, step)
        return None if index is None else node.value[index]
    return None


def key_node(node: Node, key: str) -> Node | None:
    """The node of a mapping's key itself."""
    if not isinstance(node, MappingNode):
        return None
    return next((k for k, _ in node.value if k.value == key), None)


def item_names(node: Node) -> list[str]:
    """Names of a list's items; an item without a ``name`` goes by its index."""
    if not isinstance(node, SequenceNode):
        return []
    return [_name(item) or str(index) for index, item in enumerate(node.value)]


def _name(node: Node) -> str | None:
    name = child(node, "name") if isinstance(node, MappingNode) else None
    return str(name.value) if isinstance(name, ScalarNode) else None


def _index(node: SequenceNode, step: str | int) -> int | None:
    if isinstance(step, int) or step.isdecimal():
        return int(step) if int(step) < len(node.value) else None
    names = item_names(node)
    return names.index(step) if step in names else None


def merge(base: Node, over: Node) -> Node:
    """``over`` on ``base``: mappings merge by key, lists of named items by name, the rest is replaced."""
    if isinstance(base, MappingNode) and isinstance(over, MappingNode):
        laid = {key.value: (key, value) for key, value in base.value}
        for key, value in over.value:
            below = laid.get(key.value)
            laid[key.value] = (key, value) if below is None else (key, merge(below[1], value))
        return MappingNode(base.tag, list(laid.values()), base.start_mark, base.end_mark)
    if isinstance(base, SequenceNode) and isinstance(over, SequenceNode) and _all_named(base, over):
        items = {_name(item): item for item in base.value}
        for item in over.value:
            name = _name(item)
            items[name] = merge(items[name], item) if name in items else item
        return SequenceNode(base.tag, list(items.values()), base.start_mark, base.end_mark)
    return over


def _all_named(*lists: SequenceNode) -> bool:
    return all(_name(item) is not None for node in lists for item in node.value) and all(
        len(set(item_names(node))) == len(node.value) for node in lists
    )


def override(root: Node, path: str, value: str, origin: str) -> Node:
    """The tree with the YAML text ``value`` at a dotted path. Lists are addressed by index or by an item's
    name.

    Raises SpecError that names ``origin``, the option as the user typed it.
    """
    steps = [step for step in re.split(r"[.\[\]]+", path.strip()) if step]
    if not steps:
        raise SpecError(f"{origin}: needs the form PATH=VALUE, for example request.salt=false")
    return _replaced(root, steps, compose(value, origin), origin, [])


def _replaced(node: Node, steps: Sequence[str], value: Node, origin: str, done: list[str]) -> Node:
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(node, MappingNode):
        below = child(node, step)
        mark = value.start_mark
        if below is None:
            below = MappingNode(_TAG + "map", [], mark, mark)
        changed = _replaced(below, rest, value, origin, [*done, step])
        pairs = {key.value: (key, val) for key, val in node.value}
        pairs[step] = (key_node(node, step) or ScalarNode(_TAG + "str", step, mark, mark), changed)
        return MappingNode(node.tag, list(pairs.values()), node.start_mark, node.end_mark)
    if isinstance(node, SequenceNode):
        index = _index(node, step)
        if index is None:
            raise SpecError(f"{origin}: {'.'.join(done)} has no item {step!r}; allowed: {', '.join(item_names(node))}")
        items = list(node.value)
        items[index] = _replaced(items[index], rest, value, origin, [*done, step])
        return SequenceNode(node.tag, items, node.start_mark, node.end_mark)
    raise SpecError(f"{origin}: {'.'.join(done)} is a single value and has nothing below it")
