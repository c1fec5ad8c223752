"""Stored timings: what a simulated promotion is judged by."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from ds4bench.errors import StoreError
from ds4bench.spec.load import load_gate
from ds4bench.trust import timings
from ds4bench.trust.timings import SCHEMA, Timings


def stored(rule: str = "ttft") -> Timings:
    return Timings(
        schema=SCHEMA, gate="long-context", profile="smoke", rule=rule, kind="ratio", metric="ttft_s", margin=0.5,
        cell_margin=None, session_cv=0.5, repeats=99, extend_to=100, runs=["a-run"], machine="a cpu, 2 cores",
        spread=0.01, neighbours=0.01, columns=["p2048-c1"], values=[[1.0], [1.01]],
    )  # fmt: skip


def test_promotions_are_judged_by_the_gate_as_it_is_now_and_not_as_it_was(tmp_path: Path) -> None:
    read = timings.read(timings.write(stored(), tmp_path))
    gate = load_gate("long-context", profile="smoke").spec
    rule = gate.rules[0]
    assert (read.margin, read.cell_margin, read.session_cv) == (rule.margin, rule.per_cell_margin, rule.session_cv)  # type: ignore[union-attr]
    assert (read.repeats, read.extend_to) == (gate.repeats.count, gate.repeats.extend_to)
    assert msgspec.to_builtins(read)["values"] == [[1.0], [1.01]]


def test_timings_of_a_rule_that_is_gone_are_refused_with_the_file(tmp_path: Path) -> None:
    path = timings.write(stored(rule="an-old-rule"), tmp_path)
    with pytest.raises(StoreError, match=f"{path.name}: gate long-context has no rule an-old-rule"):
        timings.read(path)
