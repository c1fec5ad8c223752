"""``torch.ops.ds4``: schemas, fakes, the ``_out`` forms, and a model step that is traced through them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
import torch
from ds4_kernels import library, ops
from ds4_kernels.cases import index_builders, mqa, quantize, query, registry, router, sparse_attention, w8a8
from ds4_kernels.cases.base import CheckCase, Inputs, Tolerance
from ds4_kernels.compare import compare
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

CPU = torch.device("cpu")
CASES = registry.check_cases(list(library.TABLE), large=False)
ROWS = pytest.mark.parametrize("row", library.TABLE.values(), ids=list(library.TABLE))
EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.label}".replace(" ", "_"))
FIRST_CASES = pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=f"{case.op}-{case.label}".replace(" ", "_"), marks=[] if place < 2 else [pytest.mark.slow]
        )
        for _, of_op in groupby(CASES, key=lambda case: case.op)
        for place, case in enumerate(of_op)
    ],
)
"""Two of each op: what ``opcheck`` looks at hardly depends on the case. The others are left to slow runs."""
OPCHECKS = ("test_faketensor", "test_autograd_registration", "test_aot_dispatch_static", "test_aot_dispatch_dynamic")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS4_KERNELS", "reference")
    library.register()


def overload(row: library.Row, form: str = "") -> Any:
    return getattr(torch.ops.ds4, row.name + form).default


def arguments(case: CheckCase, seed: int = 3) -> Inputs:
    """A case's inputs without ``out``."""
    inputs = case.build(torch.Generator().manual_seed(seed), CPU)
    if library.TABLE[case.op].outs:
        inputs.pop("out", None)
    return inputs


def expected(case: CheckCase, inputs: Inputs) -> tuple[list[Tensor], Inputs]:
    """(results of the reference, the inputs as it left them)."""
    inputs = {name: copied(value) for name, value in inputs.items()}
    result = ops.implementation(case.op, "reference")(**inputs)
    return listed(result), inputs


def listed(result: Any) -> list[Tensor]:
    return [] if result is None else list(result) if isinstance(result, (tuple, list)) else [result]


def copied(value: Any) -> Any:
    """A tensor's own storage, with its strides and what lies between its rows."""
    if not isinstance(value, Tensor):
        return value
    storage = value.untyped_storage().clone()
    return torch.empty(0, dtype=value.dtype).set_(storage, value.storage_offset(), value.shape, value.stride())


def same(mine: Tensor, theirs: Tensor) -> bool:
    """Equal to the last bit, NaN included."""
    return mine.dtype == theirs.dtype and compare(mine, theirs, Tolerance("exact")).ok


def form_of(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.device


def run(row: library.Row, inputs: Inputs, form: str = "") -> list[Tensor]:
    """Arguments by position, as a traced graph gives them; defaults where a case leaves an argument out."""
    op = overload(row, form)
    given = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()} | inputs
    positional = [a.name for a in op._schema.arguments if not a.kwarg_only]
    keywords = {a.name: given[a.name] for a in op._schema.arguments if a.kwarg_only}
    return listed(op(*(given[name] for name in positional), **keywords))


def test_the_table_and_the_reasons_cover_every_op() -> None:
    assert not library.MISSING & set(library.TABLE)
    assert library.MISSING | set(library.TABLE) == set(ops.TABLE)
    for name in library.MISSING:  # the reason: no schema can say which members of these change
        hints = inspect.signature(ops.implementation(name, "reference")).parameters.values()
        assert any("SoftmaxState" in hint.annotation or "list[" in hint.annotation for hint in hints)


@ROWS
def test_the_schema_has_the_references_arguments(row: library.Row) -> None:
    parameters = inspect.signature(ops.implementation(row.name, "reference")).parameters
    wanted = [name for name in parameters if name != "dtype" and not (name == "out" and row.outs)]
    assert row.names == wanted == [argument.name for argument in overload(row)._schema.arguments]
    for argument in overload(row)._schema.arguments:
        parameter = parameters[argument.name]
        assert argument.kwarg_only == (parameter.kind is inspect.Parameter.KEYWORD_ONLY), argument.name
        assert argument.has_default_value() == (parameter.default is not inspect.Parameter.empty), argument.name
        if argument.has_default_value() and argument.name != "out_dtype":  # a dtype's default is a number in a schema
            assert argument.default_value == parameter.default, argument.name


@ROWS
def test_results_that_may_be_given_have_an_out_form(row: library.Row) -> None:
    kernel = inspect.signature(ops.implementation(row.name, "reference")).parameters
    assert bool(row.outs) == ("out" in kernel and kernel["out"].default is None)
    assert hasattr(torch.ops.ds4, f"{row.name}_out") == bool(row.outs)


def test_registering_again_changes_nothing() -> None:
    before = overload(library.TABLE["rms_norm"])
    library.register()
    assert overload(library.TABLE["rms_norm"]) is before
    assert run(library.TABLE["rms_norm"], {"x": torch.ones(1, 8, dtype=torch.bfloat16), "weight": None, "eps": 0.0})


@EVERY_CASE
def test_the_op_is_the_reference_and_changes_what_its_schema_says(case: CheckCase) -> None:
    row, inputs = library.TABLE[case.op], arguments(case)
    results, after = expected(case, inputs)
    mine = run(row, inputs)
    changing = {a.name for a in overload(row)._schema.arguments if a.alias_info is not None and a.alias_info.is_write}
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            assert same(value, after[name]), name
            unchanged = same(value, arguments(case)[name])
            assert unchanged or name in changing, name
    if changing:  # an op that writes into its arguments returns nothing
        assert mine == []
    else:
        assert all(same(one, other) for one, other in zip(mine, results, strict=True))
        pointers = {value.data_ptr() for value in inputs.values() if isinstance(value, Tensor) and value.numel()}
        assert all(one.data_ptr() not in pointers for one in mine if one.numel())


@EVERY_CASE
def test_fakes_have_the_real_shapes_dtypes_and_strides(case: CheckCase) -> None:
    row, inputs = library.TABLE[case.op], arguments(case)
    with FakeTensorMode() as mode:
        given = {name: mode.from_tensor(x) if isinstance(x, Tensor) else x for name, x in inputs.items()}
        fake = run(row, given)
    real = run(row, inputs)
    assert [form_of(tensor) for tensor in fake] == [form_of(tensor) for tensor in real]


@FIRST_CASES
def test_opcheck(case: CheckCase) -> None:
    row, inputs = library.TABLE[case.op], arguments(case)
    schema = overload(row)._schema.arguments
    given = {a.name: a.default_value for a in schema if a.has_default_value()} | inputs
    args = tuple(given[a.name] for a in schema if not a.kwarg_only)
    keywords = {a.name: given[a.name] for a in schema if a.kwarg_only}
    e4m3 = any(isinstance(value, Tensor) and value.dtype == torch.float8_e4m3fn for value in inputs.values())
    checks = OPCHECKS if e4m3 else ("test_schema", *OPCHECKS)  # torch compares e4m3 by a multiplication it lacks
    opcheck(overload(row), args, keywords, test_utils=checks)


@pytest.mark.parametrize(
    "case", [case for case in CASES if library.TABLE[case.op].outs], ids=lambda case: f"{case.op}-{case.label}"
)
def test_out_forms_write_out(case: CheckCase) -> None:
    row, inputs = library.TABLE[case.op], arguments(case)
    names = [argument.name for argument in overload(row, "_out")._schema.arguments if argument.name.startswith("out")]
    names = [name for name in names if name not in row.names]
    results, _ = expected(case, inputs)
    given = {name: torch.zeros_like(result) for name, result in zip(names, results, strict=True)}
    assert run(row, inputs | given, "_out") == []
    assert all(same(given[name], result) for name, result in zip(names, results, strict=True))


def test_out_forms_take_wider_buffers() -> None:
    inputs = index_builders.swa_build(5, 64, 128, 256)(torch.Generator().manual_seed(1), CPU)
    wide, lens = inputs.pop("out")
    torch.ops.ds4.decode_swa_slots_out(**inputs, out=wide, out_lens=lens)
    slots, narrow_lens = torch.ops.ds4.decode_swa_slots(**inputs)
    assert torch.equal(wide[:, :128], slots)
    assert torch.equal(wide[:, 128:], torch.full_like(wide[:, 128:], -1))
    assert torch.equal(lens, narrow_lens)


def test_a_setting_decides_on_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def note(name: str, *_: Any, **__: Any) -> Tensor:
        chosen.append(name)
        return torch.zeros(1, 8)

    monkeypatch.setattr(ops, "call", note)
    torch.ops.ds4.rms_norm(torch.ones(1, 8), None, 0.0)
    assert chosen == ["rms_norm"]


def decode_inputs(tokens: int, seed: int) -> Inputs:
    """What ``decode_step`` takes, for ``tokens`` requests, from the builders of the cases; tensors of fixed size apart."""
    g = torch.Generator().manual_seed(seed)
    scores = mqa._paged_build(tokens, 1, 130, 8, flat=True, rowwise=False)(g, CPU)
    step = query.indexer_query_build(tokens, 8)(g, CPU)
    attended = sparse_attention._decode_build(tokens, 8, 128, None, 64, "random")(g, CPU)
    kv = query.kv_build(tokens, 64)(g, CPU)
    linear = w8a8.gemm_build(1, 64, 512, "fp32", "fp32", torch.bfloat16)(g, CPU)
    return {
        "index_q": step["index_q"], "weights": step["weights"], "positions": step["positions"],
        "cos_sin": step["cos_sin"], "index_cache": scores["cache"], "lens": scores["context_lens"],
        "table": scores["block_table"], "q": attended["q"], "sink": attended["sink"],
        "swa_cache": attended["swa_cache"].masked_fill(attended["swa_cache"] == 0xFF, 0),
        "kv": torch.nan_to_num(kv["kv"]), "slots": torch.arange(tokens) + 64,
        "gate_up": router.swiglu_build(tokens, 512, torch.bfloat16)(g, CPU)["gate_up"],
        "b": linear["b"], "b_scale": linear["b_scale"], "x": quantize.varied(g, CPU, tokens, 4, 128).view(tokens, 512),
    }  # fmt: skip


def decode_step(
    index_q: Tensor, weights: Tensor, positions: Tensor, cos_sin: Tensor, index_cache: Tensor, lens: Tensor,
    table: Tensor, q: Tensor, sink: Tensor, swa_cache: Tensor, kv: Tensor, slots: Tensor, gate_up: Tensor, b: Tensor,
    b_scale: Tensor, x: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """An indexer, an attention, writes into a cache and into given outputs, a quantised linear: twelve ops."""
    tokens = q.shape[0]
    d = torch.ops.ds4
    q8, w = d.indexer_query(index_q, weights, positions, cos_sin)
    logits = d.mqa_logits_paged(q8.unsqueeze(1), index_cache, 64, w, lens, table, 130)
    top = q.new_empty(tokens, 64, dtype=torch.int32)
    d.topk_decode_out(logits, 1, lens, 64, out=top)
    picked, picked_lens = d.global_topk_slots(
        top, torch.arange(tokens, dtype=torch.int32), table, 64, torch.ones(tokens, dtype=torch.bool)
    )
    d.kv_rope_insert(kv, positions, cos_sin, swa_cache, slots, 64)
    roped = torch.empty_like(q)
    d.query_norm_rope(q, positions, cos_sin, 1e-6, roped)
    out, lse = d.sparse_attention_decode(roped, swa_cache, 64, picked, picked_lens, sink)
    rotated, scale = d.inverse_rope_quant(out, positions, cos_sin, 2)
    a, a_scale = d.quant_fp8(d.swiglu_clamped(gate_up, 10.0) + d.rms_norm(x, None, 1e-6))
    linear = d.w8a8_gemm(a, a_scale, b, b_scale, torch.float32)
    return logits, top, picked, out, lse, rotated.transpose(0, 1), scale, linear


def check_step(step: Callable[..., tuple[Tensor, ...]], tokens: int) -> None:
    mine, theirs = decode_inputs(tokens, tokens), decode_inputs(tokens, tokens)
    results = step(*mine.values())
    for one, other in zip(results, decode_step(*theirs.values()), strict=True):
        assert same(one, other)
        assert one.stride() == other.stride()
        assert not one.float().isnan().any()
    assert same(mine["swa_cache"], theirs["swa_cache"])
    assert not same(mine["swa_cache"], decode_inputs(tokens, tokens)["swa_cache"])


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_step_compiles_as_one_graph_for_any_number_of_tokens(backend: str) -> None:
    torch._dynamo.reset()
    frames: list[int] = []

    def counting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        frames.append(len(graph.graph.nodes))
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    step = torch.compile(decode_step, backend=counting, fullgraph=True, dynamic=True)
    for tokens in (5, 3, 8):
        inputs = decode_inputs(tokens, tokens)
        for name, value in inputs.items():
            if name in ("swa_cache", "index_cache"):
                torch._dynamo.mark_dynamic(value, 0)
        check_step(step, tokens)
    assert len(frames) == 1


def test_make_fx_traces_symbolic_tokens() -> None:
    inputs = decode_inputs(5, 5)
    traced = make_fx(decode_step, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs.values())
    called = {str(node.target) for node in traced.graph.nodes if str(node.target).startswith("ds4.")}
    assert len(called) == 12
    check_step(traced, 7)


@pytest.mark.parametrize("name", ["attend_materialised", "mhc_pre", "mhc_split_sinkhorn"])
def test_fakes_know_double_precision(name: str) -> None:
    row, inputs = library.TABLE[name], arguments(next(case for case in CASES if case.op == name))
    wide = {key: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for key, x in inputs.items()}
    with FakeTensorMode() as mode:
        fake = run(row, {key: mode.from_tensor(x) if isinstance(x, Tensor) else x for key, x in wide.items()})
    real = run(row, wide)
    assert [form_of(tensor) for tensor in fake] == [form_of(tensor) for tensor in real]
    assert torch.float64 in {tensor.dtype for tensor in real}


@pytest.mark.triton
@pytest.mark.interpreted
@ROWS
def test_kernels_give_what_the_fakes_promise(row: library.Row, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("DS4_KERNELS", "triton")
    inputs = arguments(next(case for case in CASES if case.op == row.name))
    with FakeTensorMode() as mode:
        fake = run(row, {name: mode.from_tensor(x) if isinstance(x, Tensor) else x for name, x in inputs.items()})
    assert [form_of(tensor) for tensor in run(row, inputs)] == [form_of(tensor) for tensor in fake]
