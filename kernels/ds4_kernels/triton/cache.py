"""Paged key caches in Triton: quantise and insert, dequantise and gather. Contracts: ``reference.cache``.

An ``fp8_ds_mla`` row is worked on as 8 groups of 64 dimensions: 7 quantised ones and the rope group. All four kernels
are bound by memory; a program takes several rows so that every thread has 16-byte loads in flight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference import cache as contract
from ds4_kernels.triton.common import (
    FP8_AMAX_FLOOR,
    INTERPRETED,
    inverse_pow2,
    pow2,
    to_bf16,
    to_e4m3,
)
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.dependent import dependent, enter, fetch_rows_into_l2, let_next_start, wait
from ds4_kernels.triton.index_builders import segment_of

GROUP = tl.constexpr(layouts.MLA_GROUP)
GROUPS = tl.constexpr(layouts.HEAD_DIM // layouts.MLA_GROUP)
ROPE_GROUP = tl.constexpr(layouts.NOPE_DIM // layouts.MLA_GROUP)
NOPE = tl.constexpr(layouts.NOPE_DIM)
MLA_DATA = tl.constexpr(layouts.FP8_DS_MLA.data_bytes)
MLA_SCALES = tl.constexpr(layouts.FP8_DS_MLA.scale_bytes)
INDEX = tl.constexpr(layouts.INDEX_DIM)
INDEX_SCALES = tl.constexpr(layouts.INDEXER_FP8.scale_bytes)

INSERT_ROWS, GATHER_ROWS, INDEXER_ROWS = 4, 8, 32
WARPS = 4
INSERT_WARPS = 8


class InsertForm(NamedTuple):
    """How ``cache_insert`` is launched. ``fetch``: keys and slots are asked for before the wait (``triton.dependent``);
    ``early``: the next kernel may come before this one waits."""

    fetch: bool
    early: bool


INSERT_WAITING, INSERT_EARLY = InsertForm(fetch=True, early=False), InsertForm(fetch=True, early=True)
INSERT_GAPS = InsertForm(fetch=False, early=False)
"""Keys with gaps between them, or at an address that a bulk request does not take."""
WAITING_TOKENS = 1024
"""Up to how many tokens the next kernel comes after this one's wait: docs/speed.md."""


@triton.jit
def slot_address(cache_ptr, cache_stride, slot, BLOCK_SIZE: tl.constexpr):
    """(pointer to the block, offset in the block) of int64 slots >= 0."""
    block = (slot.to(tl.uint64) // BLOCK_SIZE).to(tl.int64)  # unsigned: a shift alone
    return cache_ptr + block * cache_stride, (slot - block * BLOCK_SIZE).to(tl.int32)


@triton.jit
def _scale_byte(amax):
    """``scale_byte(amax, 448, 1e-4)`` without the division: 448 is 1.75 times a power of two (byte 8 lower)."""
    bits = tl.maximum(amax, FP8_AMAX_FLOOR).to(tl.int32, bitcast=True)
    byte = ((bits + 0x1FFFFF) >> 23) - 8
    return tl.where(bits >= 0x7F800000, 255, byte)


@triton.jit
def _codes(x):
    """e4m3 codes of FP32 values that a scale has brought to -448 .. 448; the instruction saturates by itself."""
    codes = to_e4m3(x) if INTERPRETED else x.to(tl.float8e4nv)
    return codes.to(tl.uint8, bitcast=True)


@triton.jit
def store_mla_nope(cache_ptr, cache_stride, slot, keep, x, BLOCK_SIZE: tl.constexpr):
    """Quantise the first 7 groups of FP32 rows ``x`` [N, 8, 64] into int64 slots [N] where ``keep``; pad byte 0."""
    group = tl.arange(0, GROUPS)
    nope = group < ROPE_GROUP
    byte = _scale_byte(tl.max(tl.abs(x), axis=2))
    codes = _codes(x * inverse_pow2(byte)[:, :, None])
    block, offset = slot_address(cache_ptr, cache_stride, tl.where(keep, slot, 0), BLOCK_SIZE)
    column = group[None, :, None] * GROUP + tl.arange(0, GROUP)[None, None, :]  # masked lanes are inside the row too
    at = (block + offset * MLA_DATA)[:, None, None] + column
    tl.store(at, codes, mask=keep[:, None, None] & nope[None, :, None])
    scales = block + BLOCK_SIZE * MLA_DATA + offset * MLA_SCALES
    tl.store(scales[:, None] + group[None, :], tl.where(nope[None, :], byte, 0).to(tl.uint8), mask=keep[:, None])


@triton.jit
def mla_rope_address(cache_ptr, cache_stride, slot, BLOCK_SIZE: tl.constexpr):
    """Pointer to the 64 BF16 rope values of int64 slots >= 0."""
    block, offset = slot_address(cache_ptr, cache_stride, slot, BLOCK_SIZE)
    return (block + offset * MLA_DATA + NOPE).to(tl.pointer_type(tl.bfloat16))


@triton.jit
def load_mla_nope(row, keep):
    """The first 7 groups of rows of 512 at pointers [N], FP32 [N, 8, 64]; 0 in the last group and where not ``keep``."""
    group = tl.arange(0, GROUPS)
    column = group[None, :, None] * GROUP + tl.arange(0, GROUP)[None, None, :]
    mask = keep[:, None, None] & (group < ROPE_GROUP)[None, :, None]
    return tl.load(row[:, None, None] + column, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_indexer(cache_ptr, cache_stride, slot, keep, x, BLOCK_SIZE: tl.constexpr):
    """Quantise FP32 rows ``x`` [N, 128] with one FP32 scale each and write them to int64 slots [N] where ``keep``."""
    column = tl.arange(0, INDEX)
    byte = _scale_byte(tl.max(tl.abs(x), axis=1))
    codes = _codes(x * inverse_pow2(byte)[:, None])
    block, offset = slot_address(cache_ptr, cache_stride, tl.where(keep, slot, 0), BLOCK_SIZE)
    tl.store((block + offset * INDEX)[:, None] + column[None, :], codes, mask=keep[:, None])
    scale = (block + BLOCK_SIZE * INDEX + offset * INDEX_SCALES).to(tl.pointer_type(tl.float32))
    tl.store(scale, pow2(byte), mask=keep)


@triton.jit(do_not_specialize=["tokens"])
def _cache_insert_kernel(
    k_ptr, cache_ptr, slot_ptr, tokens, k_stride, cache_stride,
    BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, FETCH: tl.constexpr, EARLY: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if EARLY:
        let_next_start(PDL)
    first = tl.program_id(0) * ROWS
    token = first + tl.arange(0, ROWS)
    inside = token < tokens
    group = tl.arange(0, GROUPS)[None, :, None]
    column = tl.arange(0, GROUP)[None, None, :]
    # The keys do not wait for the slots: what is loaded for a skipped token is not stored.
    row = k_ptr + tl.where(inside, token, 0).to(tl.int64) * k_stride
    if FETCH:
        row_bytes: tl.constexpr = GROUPS * GROUP * k_ptr.dtype.element_ty.primitive_bitwidth // 8
        size = tl.minimum(tokens - first, ROWS) * row_bytes
        fetch_rows_into_l2(k_ptr + first.to(tl.int64) * k_stride, size, slot_ptr + first, PDL)
    wait(PDL)
    if not EARLY:
        let_next_start(PDL)
    k = tl.load(row[:, None, None] + (group * GROUP + column))
    slot = tl.load(slot_ptr + token, mask=inside, other=-1)
    keep = slot >= 0
    store_mla_nope(cache_ptr, cache_stride, slot, keep, k.to(tl.float32), BLOCK_SIZE)
    target = mla_rope_address(cache_ptr, cache_stride, tl.where(keep, slot, 0), BLOCK_SIZE)[:, None, None] + column
    tl.store(tl.broadcast_to(target, k.shape), to_bf16(k), mask=keep[:, None, None] & (group == ROPE_GROUP))


@triton.jit(do_not_specialize=["tokens"])
def _indexer_insert_kernel(
    k_ptr, cache_ptr, slot_ptr, tokens, k_stride, cache_stride,
    BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    enter(PDL)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slot_ptr + token, mask=token < tokens, other=-1)
    keep = slot >= 0
    row = k_ptr + tl.where(keep, token, 0).to(tl.int64) * k_stride
    x = tl.load(row[:, None] + tl.arange(0, INDEX)[None, :], mask=keep[:, None], other=0.0).to(tl.float32)
    store_indexer(cache_ptr, cache_stride, slot, keep, x, BLOCK_SIZE)


@triton.jit(do_not_specialize=["offset", "capacity", "table_width", "table_stride"])
def _cache_gather_kernel(
    cache_ptr, seq_lens_ptr, gather_lens_ptr, table_ptr, out_ptr, offset, capacity, table_width, table_stride,
    cache_stride, out_stride, row_stride,
    BLOCK_SIZE: tl.constexpr, ALL: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(1).to(tl.int64)
    seq_len = tl.load(seq_lens_ptr + request).to(tl.int32)
    length = seq_len
    if not ALL:
        length = tl.load(gather_lens_ptr + request).to(tl.int32)
    first = tl.program_id(0) * ROWS
    if first >= tl.minimum(length, capacity):
        return
    row = first + tl.arange(0, ROWS)
    position = seq_len - length + row
    safe = tl.maximum(position, 0)
    keep = (row < length) & (row < capacity) & (position >= 0) & (safe // BLOCK_SIZE < table_width)
    safe = tl.where(keep, safe, 0)
    block = tl.load(table_ptr + request * table_stride + safe // BLOCK_SIZE, mask=keep, other=-1).to(tl.int64)
    keep = keep & (block >= 0)
    base = cache_ptr + tl.where(keep, block, 0) * cache_stride
    in_block = safe % BLOCK_SIZE
    source = base + in_block * MLA_DATA
    target = out_ptr + request * out_stride + (offset + tl.where(keep, row, 0)).to(tl.int64) * row_stride

    group = tl.arange(0, GROUPS)
    column = tl.arange(0, GROUP)
    nope = keep[:, None] & (group < ROPE_GROUP)[None, :]
    at = tl.minimum(group, ROPE_GROUP - 1)[None, :, None] * GROUP + column[None, None, :]
    scales = base + BLOCK_SIZE * MLA_DATA + in_block * MLA_SCALES
    byte = tl.load(scales[:, None] + group[None, :], mask=nope, other=127).to(tl.int32)
    code = tl.load(source[:, None, None] + at, mask=nope[:, :, None], other=0)
    rope_source = (source + NOPE).to(tl.pointer_type(tl.bfloat16))
    rope = tl.load(rope_source[:, None] + column[None, :], mask=keep[:, None], other=0.0)
    value = code.to(tl.float8e4nv, bitcast=True).to(tl.float32) * pow2(byte)[:, :, None]
    tl.store(target[:, None, None] + at, to_bf16(value), mask=nope[:, :, None])
    tl.store(target[:, None] + NOPE + column[None, :], rope, mask=keep[:, None])


@triton.jit(do_not_specialize=["rows", "requests", "table_width", "table_stride"])
def _indexer_gather_kernel(
    cache_ptr, seq_lens_ptr, table_ptr, starts_ptr, k_ptr, scale_ptr, rows, requests, table_width, table_stride,
    cache_stride, k_stride, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    request = segment_of(starts_ptr, requests, row)
    keep = (request >= 0) & (row < rows)
    request = tl.where(keep, request, 0)
    entry = row - tl.load(starts_ptr + request).to(tl.int32)
    keep = keep & (entry < tl.load(seq_lens_ptr + request)) & (tl.maximum(entry, 0) // BLOCK_SIZE < table_width)
    entry = tl.where(keep, entry, 0)
    page = request.to(tl.int64) * table_stride + entry // BLOCK_SIZE
    block = tl.load(table_ptr + page, mask=keep, other=-1).to(tl.int64)
    keep = keep & (block >= 0)
    base = cache_ptr + tl.where(keep, block, 0) * cache_stride
    in_block = entry % BLOCK_SIZE
    column = tl.arange(0, INDEX)
    code = tl.load((base + in_block * INDEX)[:, None] + column[None, :], mask=keep[:, None], other=0)
    scale_source = (base + BLOCK_SIZE * INDEX + in_block * INDEX_SCALES).to(tl.pointer_type(tl.float32))
    scale = tl.load(scale_source, mask=keep, other=0.0)
    safe_row = tl.where(keep, row, 0).to(tl.int64)
    tl.store(k_ptr + (safe_row * k_stride)[:, None] + column[None, :], code, mask=keep[:, None])
    tl.store(scale_ptr + safe_row, scale, mask=keep)


def cache_insert(k: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int) -> None:
    """Quantise keys and store them as ``fp8_ds_mla`` slots: see ``reference.cache.cache_insert``."""
    contract.check_insert(k, cache, slot_mapping, block_size, layouts.FP8_DS_MLA, layouts.HEAD_DIM)
    tokens = slot_mapping.shape[0]
    if tokens:
        form = _insert_form(k, tokens)
        _cache_insert_kernel[(triton.cdiv(tokens, INSERT_ROWS),)](
            k, cache, slot_mapping, tokens, k.stride(0), cache.stride(0),
            BLOCK_SIZE=block_size, ROWS=INSERT_ROWS, FETCH=form.fetch, EARLY=form.early,
            num_warps=INSERT_WARPS, **dependent(k.device),
        )  # fmt: skip


def _insert_form(k: Tensor, tokens: int) -> InsertForm:
    if k.stride(0) != k.shape[1] or k.data_ptr() % 16:
        return INSERT_GAPS
    return INSERT_WAITING if tokens <= WAITING_TOKENS else INSERT_EARLY


def indexer_insert(k: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int) -> None:
    """Quantise indexer keys and store them as ``indexer_fp8`` slots: see ``reference.cache.indexer_insert``."""
    contract.check_insert(k, cache, slot_mapping, block_size, layouts.INDEXER_FP8, layouts.INDEX_DIM)
    tokens = slot_mapping.shape[0]
    if tokens:
        _indexer_insert_kernel[(triton.cdiv(tokens, INDEXER_ROWS),)](
            k, cache, slot_mapping, tokens, k.stride(0), cache.stride(0),
            BLOCK_SIZE=block_size, ROWS=INDEXER_ROWS, num_warps=WARPS, **dependent(k.device),
        )  # fmt: skip


def cache_gather(
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    gather_lens: Tensor | None,
    block_table: Tensor,
    offset: int,
    out: Tensor,
) -> None:
    """Dequantise paged slots into rows of a BF16 workspace: see ``reference.cache.cache_gather``."""
    contract.check_gather(cache, block_size, seq_lens, gather_lens, block_table, offset, out)
    requests, rows, _ = out.shape
    if requests and rows > offset:
        _cache_gather_kernel[(triton.cdiv(rows - offset, GATHER_ROWS), requests)](
            cache, seq_lens, seq_lens if gather_lens is None else gather_lens, block_table, out, offset, rows - offset,
            block_table.shape[1], block_table.stride(0), cache.stride(0), out.stride(0), out.stride(1),
            BLOCK_SIZE=block_size, ALL=gather_lens is None, ROWS=GATHER_ROWS, num_warps=WARPS,
        )  # fmt: skip


def indexer_gather(
    cache: Tensor,
    block_size: int,
    seq_lens: Tensor,
    block_table: Tensor,
    starts: Tensor,
    k_out: Tensor,
    scale_out: Tensor,
) -> None:
    """Copy paged indexer entries to contiguous rows: see ``reference.cache.indexer_gather``."""
    contract.check_indexer_gather(cache, block_size, seq_lens, block_table, starts, k_out, scale_out)
    rows, requests = k_out.shape[0], seq_lens.shape[0]
    if rows and requests:
        _indexer_gather_kernel[(triton.cdiv(rows, INDEXER_ROWS),)](
            cache, seq_lens, block_table, starts, k_out.view(torch.uint8), scale_out, rows, requests,
            block_table.shape[1], block_table.stride(0), cache.stride(0), k_out.stride(0),
            BLOCK_SIZE=block_size, ROWS=INDEXER_ROWS, num_warps=WARPS,
        )  # fmt: skip


def compile_cases() -> list[CompileCase]:
    """Every shipped configuration: BF16 and FP32 keys, the block sizes of the engines' caches."""
    signature = {
        "cache_ptr": "*u8", "seq_lens_ptr": "*i32", "table_ptr": "*i32", "starts_ptr": "*i32", "k_ptr": "*u8",
        "scale_ptr": "*fp32", "rows": "i32", "requests": "i32", "table_width": "i32", "table_stride": "i32",
        "cache_stride": "i32", "k_stride": "i32",
    }  # fmt: skip
    constexprs = {"BLOCK_SIZE": 64, "ROWS": INDEXER_ROWS}
    strides = ("cache_stride", "k_stride")
    sizes, dtypes = (2, 64, 256), ("bf16", "fp32")
    return [
        *(
            _insert_case("cache_insert", _cache_insert_kernel, t, size, INSERT_ROWS, INSERT_WARPS, form)
            for size in sizes
            for t in dtypes
            for form in (INSERT_WAITING, INSERT_EARLY, INSERT_GAPS)
        ),
        *(_insert_case("indexer_insert", _indexer_insert_kernel, t, 64, INDEXER_ROWS, WARPS) for t in dtypes),
        *(_gather_case(size, whole) for size in sizes for whole in (False, True)),
        CompileCase(
            "indexer_gather", "block 64", _indexer_gather_kernel, signature, constexprs, WARPS, divisible=strides
        ),
    ]


def _insert_case(
    op: str, kernel: object, dtype: str, block_size: int, rows: int, warps: int, form: InsertForm | None = None
) -> CompileCase:
    signature = {
        "k_ptr": f"*{dtype}", "cache_ptr": "*u8", "slot_ptr": "*i64", "tokens": "i32", "k_stride": "i32",
        "cache_stride": "i32",
    }  # fmt: skip
    constexprs = {"BLOCK_SIZE": block_size, "ROWS": rows, "PDL": True}
    named = ""
    if form is not None:
        constexprs |= {"FETCH": form.fetch, "EARLY": form.early}
        named = "".join(f" {name}" for name, on in form._asdict().items() if on)
    config, strides = f"{dtype} block {block_size}{named}", ("k_stride", "cache_stride")
    return CompileCase(op, config, kernel, signature, constexprs, warps, divisible=strides)


def _gather_case(block_size: int, whole: bool) -> CompileCase:
    signature = {
        "cache_ptr": "*u8", "seq_lens_ptr": "*i32", "gather_lens_ptr": "*i32", "table_ptr": "*i32", "out_ptr": "*bf16",
        "offset": "i32", "capacity": "i32", "table_width": "i32", "table_stride": "i32", "cache_stride": "i32",
        "out_stride": "i32", "row_stride": "i32",
    }  # fmt: skip
    constexprs = {"BLOCK_SIZE": block_size, "ALL": whole, "ROWS": GATHER_ROWS}
    config = f"block {block_size} {'all positions' if whole else 'last positions'}"
    strides = ("cache_stride", "out_stride", "row_stride")
    return CompileCase("cache_gather", config, _cache_gather_kernel, signature, constexprs, WARPS, divisible=strides)
