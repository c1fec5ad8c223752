"""The names that a step is started with, and those that a person reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ds4bench.attribution.op_table import described, parts_of, regrouped, switchable
from ds4bench.errors import SpecError

TABLE = switchable("embedded", "all")
OPS = [op for group in TABLE for op in group.ops]


@given(st.frozensets(st.sampled_from(OPS)))
def test_the_short_names_mean_exactly_these_ops(chosen: frozenset[str]) -> None:
    from ds4_kernels import ops

    parts = parts_of(chosen, TABLE)
    assert set(ops.names(",".join(parts))) == chosen


@pytest.mark.parametrize(
    ("left_out", "words"), [([], "all ops"), (["mhc_post"], "all but mhc_post"), (["attn"], "all but attn")]
)
def test_what_is_left_out_is_said_where_that_is_shorter(left_out: list[str], words: str) -> None:
    groups = {group.name: group.ops for group in TABLE}
    gone = {op for part in left_out for op in groups.get(part, (part,))}
    assert described(set(OPS) - gone, TABLE) == words


def test_a_few_ops_are_said_by_name() -> None:
    assert described({"mhc_post", "mxfp4_moe", "route", "swiglu_clamped"}, TABLE) == "mhc_post, moe"


def test_an_engine_is_searched_where_it_has_hooks() -> None:
    from ds4_kernels.engines.vllm import table

    hooked = {hook.op for hooks in table().values() for hook in hooks}
    assert {op for group in switchable("vllm", "all") for op in group.ops} == hooked
    assert regrouped({"mhc_post"})[0].name == "mhc"
    with pytest.raises(SpecError, match="no hook for any of them in vllm"):
        switchable("vllm", next(op for op in OPS if op not in hooked))
