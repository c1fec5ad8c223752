"""Merging of node trees: the same as merging plain values, with the places kept."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ds4bench.spec.document import child, compose, merge, override, to_plain, where

keys = st.text("abcd", min_size=1, max_size=2)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text("xyz 1:-#", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(keys, values, max_size=4)


def merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return {**base, **{k: merged(base[k], v) if k in base else v for k, v in over.items()}}
    return over


@given(mappings)
def test_json_is_read_as_json(data: dict[str, Any]) -> None:
    assert to_plain(compose(json.dumps(data), "a.yaml")) == data


@given(mappings, mappings)
def test_merging_nodes_is_merging_values(base: dict[str, Any], over: dict[str, Any]) -> None:
    lists_have_no_names = merge(compose(json.dumps(base), "a"), compose(json.dumps(over), "b"))
    assert to_plain(lists_have_no_names) == merged(base, over)


@given(mappings, keys, values)
def test_override_changes_its_key_and_nothing_else(data: dict[str, Any], key: str, value: Any) -> None:
    root = compose(json.dumps(data), "a")
    assert to_plain(override(root, key, json.dumps(value), "--set x")) == {**data, key: value}
    assert to_plain(root) == data


def test_every_node_knows_where_it_came_from() -> None:
    root = merge(compose("a: 1\nb: 2\n", "base.yaml"), compose("b: 3\n", "over.yaml"))
    root = override(root, "c", "4", "--set c=4")
    places = [where(node) for key in "abc" if (node := child(root, key)) is not None]
    assert places == ["base.yaml:1", "over.yaml:1", "--set c=4"]


def test_scalars_follow_the_yaml_1_2_core_schema() -> None:
    text = "[no, on, 1:30, 010, 2026-11-21, 1e-2, 62_080, true, ~, .5]"
    expected = ["no", "on", "1:30", "010", "2026-11-21", 0.01, 62080, True, None, 0.5]
    assert to_plain(compose(text, "a")) == expected
