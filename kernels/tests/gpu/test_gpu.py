"""What only a GPU can show: nothing compiles twice, addresses beyond 2^31, poisoned slots, one CUDA graph of many ops.

Every test builds its inputs with the builders of the check cases and judges with their tolerances. Skipped without CUDA.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from ds4_kernels import check, coverage, layouts, ops
from ds4_kernels.cases import (
    attention_state,
    cache,
    compressor_store,
    einsum,
    mqa,
    query,
    registry,
    sparse_attention,
    topk,
)
from ds4_kernels.cases.base import Build, CheckCase, Inputs, Tolerance, randn
from ds4_kernels.compare import compare
from ds4_kernels.compile_gate.discover import shipped_cases
from ds4_kernels.layouts import FP8_DS_MLA, HEAD_DIM, INDEX_DIM, INDEXER_FP8, PlanarLayout
from ds4_kernels.reference.topk import decode_lengths
from ds4_kernels.triton.arch import tile_set
from torch import Tensor

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE.type == "cpu", reason="needs a CUDA GPU")]

BF16 = torch.bfloat16
SHARED = runpy.run_path(str(Path(__file__).parents[1] / "test_coverage.py"))
"""The table of inputs for any number of tokens, which that file tries without a GPU."""


def built(build: Build, seed: int = 1) -> Inputs:
    return build(torch.Generator().manual_seed(seed), DEVICE)


def case_of(op: str, build: Build) -> CheckCase:
    """A check case of the op with other inputs."""
    return replace(next(case for case in registry.check_cases([op], large=True)), label="gpu test", build=build)


def assert_agrees(case: CheckCase) -> None:
    row = check.run_case(case, DEVICE, seed=1)
    assert row.ok, f"{row.op} {row.label}: error {row.error} ({row.limit}) {row.note}"


def assert_equal(mine: list[Tensor], theirs: list[Tensor], tolerances: tuple[Tolerance, ...] | None = None) -> None:
    """To the last bit, or within the tolerances."""
    for index, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        verdict = compare(one, other, Tolerance("exact") if tolerances is None else tolerances[index])
        assert verdict.ok, f"output {index}: error {verdict.error} {verdict.note}"


# --- compilations ---


@pytest.mark.parametrize("label", SHARED["BY_TOKENS"])
def test_fifty_numbers_of_tokens_compile_each_configuration_once(label: str) -> None:
    variants = SHARED["launched"](label, SHARED["COUNTS"], DEVICE)
    assert variants
    assert coverage.recompiled(variants) == []
    assert coverage.surplus(variants, shipped_cases(), tile_set(DEVICE)) == []


@pytest.mark.parametrize("group", sorted({op.group for op in ops.TABLE.values()}))
def test_every_variant_that_the_small_checks_launch_has_a_compile_case(group: str) -> None:
    with coverage.recording(fresh=True) as variants:
        for case in registry.check_cases(ops.names(group), large=False):
            ops.implementation(case.op, "triton")(**built(case.build))
    assert variants
    assert [str(gap) for gap in coverage.uncovered_on(DEVICE, variants)] == []


# --- a cache beyond 2^31 bytes ---

FAR_BLOCKS = {"fp8_ds_mla": 60_000, "indexer_fp8": 260_000}
"""Blocks of 64 slots: 60,000 x 37,440 and 260,000 x 8,448 bytes are more than 2^31."""


class Paged(NamedTuple):
    """An input that is a cache of 64 slots a block, and the inputs that hold slots or blocks of it."""

    layout: PlanarLayout
    slots: str = ""
    table: str = ""
    cache: str = "cache"


MLA_SLOTS, MLA_TABLE = Paged(FP8_DS_MLA, slots="slot_mapping"), Paged(FP8_DS_MLA, table="block_table")
INDEX_SLOTS, INDEX_TABLE = Paged(INDEXER_FP8, slots="slot_mapping"), Paged(INDEXER_FP8, table="block_table")
BOTH = [Paged(FP8_DS_MLA, slots=f"{kind}_slots", cache=f"{kind}_cache") for kind in ("swa", "extra")]
FAR: dict[str, tuple[Build, list[Paged]]] = {
    "cache_insert": (cache.insert_build(FP8_DS_MLA, HEAD_DIM, 150, 64, BF16), [MLA_SLOTS]),
    "kv_rope_insert": (query.kv_build(150, 64), [MLA_SLOTS]),
    "compress_store": (compressor_store.compress_build("mla", 4, [(0, 90), (21, 6)]), [MLA_SLOTS]),
    "indexer_insert": (cache.insert_build(INDEXER_FP8, INDEX_DIM, 150, 64, BF16), [INDEX_SLOTS]),
    "cache_gather": (cache.gather_build([40, 130, 7], [9, 120, 0], 64, 5), [MLA_TABLE]),
    "indexer_gather": (cache.indexer_gather_build([70, 0, 200], 64, whole=True), [INDEX_TABLE]),
    "sparse_attention_decode": (sparse_attention._decode_build(5, 64, 128, 64, 64, "random"), BOTH),
    "accumulate_slots": (attention_state._slots(3, 8, 40, 4, 64), [Paged(FP8_DS_MLA, slots="slot_ids")]),
    "accumulate_paged": (attention_state._paged(3, 2, 4, 200, 64), [MLA_TABLE]),
    "mqa_logits_paged": (mqa._paged_build(3, 2, 260, 64, flat=True, rowwise=False), [INDEX_TABLE]),
}


def moved(inputs: Inputs, paged: list[Paged]) -> Inputs:
    """The same inputs with their caches at the end of large ones whose other blocks are all 0xFF (NaN)."""
    inputs = dict(inputs)
    for part in paged:
        small, total = inputs[part.cache], FAR_BLOCKS[part.layout.name]
        assert small.shape[1] == part.layout.block_stride(64)
        before = total - small.shape[0]
        inputs[part.cache] = torch.empty(total, small.shape[1], dtype=torch.uint8, device=DEVICE).fill_(0xFF)
        inputs[part.cache][before:] = small
        for name, unit in ((part.slots, 64), (part.table, 1)):
            if name:
                inputs[name] = torch.where(inputs[name] >= 0, inputs[name] + before * unit, inputs[name])
    return inputs


@pytest.mark.parametrize("op", FAR)
def test_caches_beyond_two_gibibytes(op: str) -> None:
    build, paged = FAR[op]
    case = case_of(op, build)
    theirs, mine = check._run(case, "reference", built(build)), check._run(case, "triton", moved(built(build), paged))
    if case.outputs == ("cache",):
        before = mine[0].shape[0] - theirs[0].shape[0]
        assert int(mine[0][:before].min()) == 0xFF, "written outside the named slots"
        mine = [mine[0][before:]]
    assert_equal(mine, theirs, case.tolerances)


# --- garbage that nobody may read ---


def unnamed(count: int, named: Tensor) -> Tensor:
    """Numbers below ``count`` that do not occur in ``named`` (which may hold others)."""
    free = torch.ones(count, dtype=torch.bool, device=DEVICE)
    free[named[(named >= 0) & (named < count)].long()] = False
    return free.nonzero().squeeze(1)


def filled(cached: Tensor, layout: PlanarLayout, slots: Tensor, bad: bool) -> Tensor:
    """A copy of a cache of 64 slots a block: every byte of these slots is 0xFF (NaN), or 0x30."""
    cached, byte = cached.clone(), 0xFF if bad else 0x30
    data = torch.full((len(slots), layout.data_bytes), byte, dtype=torch.uint8, device=DEVICE)
    layout.write(cached, 64, slots, data, data[:, : layout.scale_bytes].contiguous())
    return cached


def positions_of(table: Tensor) -> tuple[Tensor, Tensor]:
    """(positions that a block table of 64 slots a block reaches, their slots ``[R, positions]``)."""
    position = torch.arange(table.shape[1] * 64, device=DEVICE)
    return position, table.long().clamp_min(0)[:, position // 64] * 64 + position % 64


def garbage_prefill(inputs: Inputs, bad: bool) -> Inputs:
    """Rows of the workspace that nobody names; columns behind a row's length name one of them."""
    indices, kv = inputs["indices"], inputs["kv"].clone()
    inside = torch.arange(indices.shape[1], device=DEVICE) < inputs["lens"].unsqueeze(1)
    free = unnamed(kv.shape[0], indices[inside])
    kv[free] = torch.nan if bad else 1.0
    return {**inputs, "kv": kv, "indices": torch.where(inside | (not bad), indices, free[0].int())}


def garbage_decode(inputs: Inputs, bad: bool) -> Inputs:
    """Slots of both caches that nobody names; columns behind a row's length name one of them."""
    inputs = dict(inputs)
    for kind in ("swa", "extra"):
        cached, slots, lens = (inputs[f"{kind}_{name}"] for name in ("cache", "slots", "lens"))
        inside = torch.arange(slots.shape[1], device=DEVICE) < lens.unsqueeze(1)
        free = unnamed(cached.shape[0] * 64, slots[inside])
        inputs[f"{kind}_cache"] = filled(cached, FP8_DS_MLA, free, bad)
        inputs[f"{kind}_slots"] = torch.where(inside | (not bad), slots, free[0].int())
    return inputs


def garbage_logits(inputs: Inputs, bad: bool) -> Inputs:
    """Pages that no table names, slots behind the length in the last page; unused table entries name such a page."""
    table, cached = inputs["block_table"], inputs["cache"]
    position, slots = positions_of(table)
    free = unnamed(cached.shape[0] * 64, slots[position < inputs["context_lens"].unsqueeze(1)])
    unused = unnamed(cached.shape[0], table.flatten())[0].int()
    table = torch.where((table >= 0) | (not bad), table, unused)
    return {**inputs, "cache": filled(cached, INDEXER_FP8, free, bad), "block_table": table}


def garbage_gather(inputs: Inputs, bad: bool) -> Inputs:
    """Slots that are not gathered, those of earlier positions too."""
    position, slots = positions_of(inputs["block_table"])
    lens, wanted = inputs["seq_lens"].unsqueeze(1), inputs["gather_lens"].unsqueeze(1)
    free = unnamed(inputs["cache"].shape[0] * 64, slots[(position < lens) & (position >= lens - wanted)])
    return {**inputs, "cache": filled(inputs["cache"], FP8_DS_MLA, free, bad)}


def garbage_topk(inputs: Inputs, bad: bool) -> Inputs:
    """Logits outside a row's window: NaN, or more than all inside it."""
    if "row_ends" in inputs:
        starts, ends = inputs["row_starts"], inputs["row_ends"]
    else:
        ends = decode_lengths(inputs["seq_lens"], inputs["next_n"])
        starts = torch.zeros_like(ends)
    column = torch.arange(inputs["logits"].shape[1], device=DEVICE)
    outside = (column < starts.unsqueeze(1)) | (column >= ends.unsqueeze(1))
    return {**inputs, "logits": inputs["logits"].masked_fill(outside, torch.nan if bad else 1e30)}


GARBAGE: dict[str, tuple[Build, Callable[[Inputs, bool], Inputs]]] = {
    "sparse_attention_prefill": (sparse_attention._prefill_build(9, 64, 700, 128, "random"), garbage_prefill),
    "sparse_attention_decode": (sparse_attention._decode_build(6, 64, 128, 70, 64, "random"), garbage_decode),
    "sparse_attention_decode many": (sparse_attention._decode_build(40, 64, 128, 70, 64, None), garbage_decode),
    "mqa_logits_paged": (mqa._paged_build(5, 2, 700, 64, flat=True, rowwise=False), garbage_logits),
    "cache_gather": (cache.gather_build([300, 20, 130], [18, 20, 0], 64, 3), garbage_gather),
    "topk_prefill": (topk._prefill(6, 5000, 512, "normal").build, garbage_topk),
    "topk_decode": (topk._decode(3, 2, 5000, 512, per_row=False).build, garbage_topk),
}


@pytest.mark.parametrize("label", GARBAGE)
def test_garbage_outside_the_named_slots_changes_nothing(label: str) -> None:
    build, garbage = GARBAGE[label]
    case = case_of(label.split(maxsplit=1)[0], build)
    theirs = check._run(case, "reference", garbage(built(build), False))
    clean, bad = (check._run(case, "triton", garbage(built(build), flag)) for flag in (False, True))
    assert_equal(clean, theirs, case.tolerances)
    assert_equal(bad, clean)


# --- edges ---


@pytest.mark.parametrize("next_n", [1, 2, 3])
@pytest.mark.parametrize("per_row", [False, True])
def test_next_n(next_n: int, per_row: bool) -> None:
    for rowwise in (False, True):
        assert_agrees(mqa._paged(5, next_n, 1000, 64, not per_row, rowwise))
    for columns in (600, 9000):
        assert_agrees(topk._decode(5, next_n, columns, 512, per_row))


@pytest.mark.parametrize("heads", [4, 8, 16, 32, 64, 128])
def test_heads(heads: int) -> None:
    assert_agrees(sparse_attention._prefill(5, heads, 300, 128, "random"))
    for tokens in (3, 40):  # beside the limit of few tokens
        assert_agrees(sparse_attention._decode(tokens, heads, 128, 64, 64, "random"))


ATTENTION: dict[str, Callable[[int, str | None], Build]] = {
    "sparse_attention_prefill": lambda heads, sink: sparse_attention._prefill_build(5, heads, 64, 48, sink),
    "sparse_attention_decode": lambda heads, sink: sparse_attention._decode_build(20, heads, 48, None, 64, sink),
}


@pytest.mark.parametrize("heads", [8, 64])
@pytest.mark.parametrize("op", ATTENTION)
def test_infinite_sinks(op: str, heads: int) -> None:
    cases = [case_of(op, ATTENTION[op](heads, sink)) for sink in (None, "-inf", "+inf")]
    for case in cases:
        assert_agrees(case)
    none, least, most = (check._run(case, "triton", built(case.build)) for case in cases)
    assert_equal(least, none, cases[0].tolerances)
    assert_equal(most[1:], none[1:], cases[0].tolerances[1:])
    assert not most[0].any()


@pytest.mark.parametrize("heads", [8, 64])
@pytest.mark.parametrize("op", ATTENTION)
def test_duplicates_of_one_key_give_that_key(op: str, heads: int) -> None:
    def build(generator: torch.Generator, device: torch.device) -> Inputs:
        inputs = ATTENTION[op](heads, None)(generator, device)
        name = "indices" if "indices" in inputs else "swa_slots"
        return {**inputs, name: inputs[name][:, 2:3].repeat(1, inputs[name].shape[1])}

    case, inputs = case_of(op, build), built(build)
    assert_agrees(case)
    if "indices" in inputs:
        keys, lens = inputs["kv"][inputs["indices"][:, 0].long()], inputs["lens"]
    else:
        planes = FP8_DS_MLA.read(inputs["swa_cache"], 64, inputs["swa_slots"][:, 0].long())
        keys, lens = layouts.unpack_fp8_ds_mla(*planes, BF16), inputs["swa_lens"]
    keys = torch.where(lens.unsqueeze(1) > 0, keys, 0.0).unsqueeze(1)
    out, _ = check._run(case, "triton", inputs)
    assert_equal([out], [keys.expand_as(out)], (Tolerance("close", 1e-6, rtol=2.0**-7),))


# --- one graph of many ops ---

REQUESTS, PAGES, WINDOW_PAGES = 6, 4, 16


def step_inputs(seed: int) -> Inputs:
    """A decode step of six requests at random positions, one of them padding, with random pages."""
    g = torch.Generator().manual_seed(seed)
    heads = built(query.query_build(REQUESTS, 64, 64), seed)
    request = torch.arange(REQUESTS)
    positions = torch.randint(8, 64 * WINDOW_PAGES, (REQUESTS,), generator=g)
    table = torch.randperm(REQUESTS * PAGES, generator=g).view(REQUESTS, PAGES)
    window = torch.randperm(REQUESTS * WINDOW_PAGES, generator=g).view(REQUESTS, WINDOW_PAGES)
    entries = (positions + 1) // 4
    numbers = {
        "request": request.int(), "positions": positions, "entries": entries.int(), "table": table.int(),
        "window": window.int(), "valid": request != seed % REQUESTS,
        "slots": window[request, positions // 64] * 64 + positions % 64,
        "index_slots": table[request, (entries - 1) // 64] * 64 + (entries - 1) % 64,
    }  # fmt: skip
    return {
        **built(query.indexer_query_build(REQUESTS, 64), seed), **{name: x.to(DEVICE) for name, x in numbers.items()},
        **{name: heads[name] for name in ("q", "cos_sin", "out")},
        "kv": randn(g, DEVICE, REQUESTS, HEAD_DIM), "k": randn(g, DEVICE, REQUESTS, INDEX_DIM),
        "sink": randn(g, DEVICE, 64, dtype=torch.float32), "index_cache": mqa._cache(g, DEVICE, REQUESTS * PAGES),
        "window_cache": attention_state._cache(g, DEVICE, REQUESTS * WINDOW_PAGES, 64),
        "extra_cache": attention_state._cache(g, DEVICE, REQUESTS * PAGES, 64),
        **{name: x for name, x in built(einsum.einsum_build(1, 8, 64, 4096, "fp32", "fp32"), seed).items() if name[0] == "b"},
    }  # fmt: skip


def decode_step(x: Inputs) -> list[Tensor]:
    """Indexer, index lists, cache writes, attention and output projection: eleven ops."""

    def run(op: str, *args: Any, **options: Any) -> Any:
        return ops.implementation(op, "triton")(*args, **options)

    rope = x["positions"], x["cos_sin"]
    q8, weights = run("indexer_query", x["index_q"], x["weights"], *rope)
    run("indexer_insert", x["k"], x["index_cache"], x["index_slots"], 64)
    logits = run("mqa_logits_paged", q8.unsqueeze(1), x["index_cache"], 64, weights, x["entries"], x["table"], 256)
    top = run("topk_decode", logits, 1, x["entries"], 64)
    slots, lens = run("global_topk_slots", top, x["request"], x["table"], 64, x["valid"])
    recent = run("decode_swa_slots", x["positions"], x["request"], x["window"], 64, x["valid"])
    run("kv_rope_insert", x["kv"], *rope, x["window_cache"], x["slots"], 64)
    run("query_norm_rope", x["q"], *rope, 1e-6, x["out"])
    extra = {"extra_cache": x["extra_cache"], "extra_block_size": 64, "extra_slots": slots, "extra_lens": lens}
    out, lse = run("sparse_attention_decode", x["out"], x["window_cache"], 64, *recent, x["sink"], **extra)
    a, a_scale = run("inverse_rope_quant", out, *rope, 8)
    projected = run("fp8_einsum", a, a_scale, x["b"], x["b_scale"])
    return [logits, top, slots, lens, *recent, out, lse, projected, x["window_cache"], x["index_cache"]]


def test_one_graph_of_a_decode_step_equals_eager_calls() -> None:
    decode_step(step_inputs(1))  # compiled before the capture
    static = step_inputs(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        replayed = decode_step(static)
    for seed in (2, 3):
        check._overwrite(static, step_inputs(seed))
        graph.replay()
        eager = decode_step(step_inputs(seed))
        assert_equal(replayed, eager)
        assert not any(bool(x.isnan().any()) for x in eager if x.is_floating_point())
