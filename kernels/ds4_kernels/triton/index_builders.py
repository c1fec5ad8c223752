"""Index lists of sparse attention in Triton. Contracts: ``reference.index_builders``.

Programs are tiles of rows and columns, so one token with 8192 columns is as parallel as 4096 tokens. Row strides and
widths are fixed for an engine's buffers and may be specialised on; token counts are not.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels.reference import index_builders as contract
from ds4_kernels.triton.compile_case import CompileCase

ROWS, COLUMNS, WARPS = 4, 512, 4
SWA_COLUMNS = 128
WIDE_COLUMNS = 2048
"""C128A rows have up to 8192 columns: one row a program, 16 numbers a thread."""


@triton.jit
def segment_of(starts_ptr, count, row):
    """Index of the last of ``count`` segments that starts at or before ``row`` int32 [N]; -1 before the first.

    ``starts`` do not decrease. Of segments that start together the last one is found: the others are empty.
    """
    low = tl.zeros_like(row)
    high = low + count
    remaining = count
    while remaining > 0:
        middle = (low + high) // 2
        open_ = low < high
        start = tl.load(starts_ptr + tl.where(open_, middle, 0), mask=open_, other=0).to(tl.int32)
        right = open_ & (start <= row)
        low = tl.where(right, middle + 1, low)
        high = tl.where(open_ & (start > row), middle, high)
        remaining = remaining // 2
    return low - 1


@triton.jit
def _slots_of(table_ptr, table_stride, requests, blocks, request, entry, BLOCK_SIZE: tl.constexpr):
    """Slots of entries [N, C] of requests [N]; -1 where the entry, its request or its block does not exist."""
    known = (request >= 0) & (request < requests)
    safe = tl.maximum(entry, 0)
    column = safe // BLOCK_SIZE
    exists = (entry >= 0) & known[:, None] & (column < blocks)
    page = (tl.where(known, request, 0).to(tl.int64) * table_stride)[:, None] + tl.where(exists, column, 0)
    block = tl.load(table_ptr + page, mask=exists, other=-1)
    return tl.where(exists & (block >= 0), block * BLOCK_SIZE + safe % BLOCK_SIZE, -1)


@triton.jit(do_not_specialize=["tokens", "table_stride", "requests", "blocks"])
def _global_topk_kernel(
    topk_ptr, request_ptr, table_ptr, valid_ptr, slots_ptr, lens_ptr, tokens, table_stride, requests, blocks,
    topk_stride, slots_stride, topk, width, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = token < tokens
    safe_token = tl.where(inside, token, 0).to(tl.int64)
    valid = inside & (tl.load(valid_ptr + safe_token) != 0)
    request = tl.load(request_ptr + safe_token).to(tl.int32)
    count = tl.zeros((ROWS,), tl.int32)
    for first in range(0, width, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        wanted = valid[:, None] & (column < topk)[None, :]
        entry = tl.load(topk_ptr + (safe_token * topk_stride)[:, None] + column[None, :], mask=wanted, other=-1)
        slot = _slots_of(table_ptr, table_stride, requests, blocks, request, entry, BLOCK_SIZE)
        count += tl.sum((slot >= 0).to(tl.int32), axis=1)
        target = slots_ptr + (safe_token * slots_stride)[:, None] + column[None, :]
        tl.store(target, slot, mask=inside[:, None] & (column < width)[None, :])
    tl.store(lens_ptr + safe_token, count, mask=inside)


@triton.jit(do_not_specialize=["tokens", "requests", "window", "ratio", "topk", "workspace_rows", "swa_row"])
def _combine_kernel(
    topk_ptr, query_start_ptr, seq_lens_ptr, gather_lens_ptr, out_ptr, lens_ptr, tokens, requests, window, ratio, topk,
    workspace_rows, swa_row, topk_stride, out_stride, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = token < tokens
    query_row = token + tl.load(query_start_ptr).to(tl.int32)
    request = segment_of(query_start_ptr, requests + 1, query_row)
    known = inside & (request < requests)
    request = tl.where(known, request, 0)
    start = tl.load(query_start_ptr + request).to(tl.int32)
    query_len = tl.load(query_start_ptr + request + 1).to(tl.int32) - start
    seq_len = tl.load(seq_lens_ptr + request).to(tl.int32)
    gather_len = tl.load(gather_lens_ptr + request).to(tl.int32)
    position = seq_len - query_len + query_row - start
    picked = tl.minimum((position + 1) // tl.maximum(ratio, 1), topk)
    length = tl.where(known, picked + tl.minimum(position + 1, window), 0)
    picked = tl.where(known, picked, 0)
    base = request * workspace_rows
    swa = base + swa_row + tl.maximum(position - window + 1, 0) - (seq_len - gather_len) - picked

    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    safe_token = tl.where(inside, token, 0).to(tl.int64)
    in_topk = column[None, :] < picked[:, None]
    entry = tl.load(topk_ptr + (safe_token * topk_stride)[:, None] + column[None, :], mask=in_topk, other=-1)
    entry = tl.where(entry >= 0, entry + base[:, None], -1)
    in_window = column[None, :] < length[:, None]
    value = tl.where(in_topk, entry, tl.where(in_window, swa[:, None] + column[None, :], -1))
    target = out_ptr + (safe_token * out_stride)[:, None] + column[None, :]
    tl.store(target, value, mask=inside[:, None] & (column < width)[None, :])
    if tl.program_id(1) == 0:
        tl.store(lens_ptr + safe_token, length, mask=inside)


@triton.jit(do_not_specialize=["num_decode", "table_stride", "requests", "blocks"])
def _c128a_kernel(
    positions_ptr, request_ptr, table_ptr, slot_ptr, slots_ptr, lens_ptr, local_ptr, num_decode, table_stride, requests,
    blocks, slots_stride, local_stride, slots_width, local_width, max_width,
    RATIO: tl.constexpr, BLOCK_SIZE: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    position = tl.load(positions_ptr + token).to(tl.int32)
    visible = tl.minimum((position + 1) // RATIO, max_width)
    if token < num_decode:
        visible = tl.where(tl.load(slot_ptr + token) >= 0, visible, 0)
        entry = tl.where(column < visible, column, -1)
        request = tl.full((1,), 0, tl.int32) + tl.load(request_ptr + token).to(tl.int32)
        slot = _slots_of(table_ptr, table_stride, requests, blocks, request, entry[None, :], BLOCK_SIZE)
        target = slots_ptr + token.to(tl.int64) * slots_stride + column
        tl.store(target, tl.reshape(slot, (COLUMNS,)), mask=column < slots_width)
        if tl.program_id(1) == 0:
            tl.store(lens_ptr + token, visible)
    else:
        target = local_ptr + (token - num_decode).to(tl.int64) * local_stride + column
        tl.store(target, tl.where(column < visible, column, -1), mask=column < local_width)


@triton.jit(do_not_specialize=["tokens", "table_stride", "requests", "blocks", "window"])
def _decode_swa_kernel(
    positions_ptr, request_ptr, table_ptr, valid_ptr, slots_ptr, lens_ptr, tokens, table_stride, requests, blocks,
    window, slots_stride, width, BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = token < tokens
    safe_token = tl.where(inside, token, 0).to(tl.int64)
    valid = inside & (tl.load(valid_ptr + safe_token) != 0)
    position = tl.load(positions_ptr + safe_token).to(tl.int32)
    request = tl.load(request_ptr + safe_token).to(tl.int32)
    length = tl.where(valid, tl.minimum(position + 1, window), 0)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    entry = tl.maximum(position - window + 1, 0)[:, None] + column[None, :]
    entry = tl.where(column[None, :] < length[:, None], entry, -1)
    slot = _slots_of(table_ptr, table_stride, requests, blocks, request, entry, BLOCK_SIZE)
    target = slots_ptr + (safe_token * slots_stride)[:, None] + column[None, :]
    tl.store(target, slot, mask=inside[:, None] & (column < width)[None, :])
    if tl.program_id(1) == 0:
        tl.store(lens_ptr + safe_token, length, mask=inside)


def global_topk_slots(
    topk_indices: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
    is_valid: Tensor,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Slots of a request's own entry numbers: see ``reference.index_builders.global_topk_slots``."""
    slots, lens = contract.check_global_topk(topk_indices, token_to_req, block_table, is_valid, out)
    tokens, topk = topk_indices.shape
    if tokens:
        _global_topk_kernel[(triton.cdiv(tokens, ROWS),)](
            topk_indices, token_to_req, block_table, is_valid.view(torch.uint8), slots, lens, tokens,
            block_table.stride(0), *block_table.shape, topk_indices.stride(0), slots.stride(0), topk, slots.shape[1],
            BLOCK_SIZE=block_size, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return slots, lens


def combine_topk_swa(
    topk_indices: Tensor,
    query_start_loc: Tensor,
    seq_lens: Tensor,
    gather_lens: Tensor,
    window: int,
    ratio: int,
    topk: int,
    workspace_rows: int,
    swa_row: int,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Workspace rows of prefill tokens: see ``reference.index_builders.combine_topk_swa``."""
    indices, lens = contract.check_combine(topk_indices, query_start_loc, seq_lens, gather_lens, window, topk, out)
    tokens, width = indices.shape
    if tokens:
        _combine_kernel[(triton.cdiv(tokens, ROWS), triton.cdiv(width, COLUMNS))](
            topk_indices, query_start_loc, seq_lens, gather_lens, indices, lens, tokens, seq_lens.shape[0], window,
            ratio, topk, workspace_rows, swa_row, topk_indices.stride(0), indices.stride(0), width,
            ROWS=ROWS, COLUMNS=COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return indices, lens


def c128a_metadata(
    positions: Tensor,
    ratio: int,
    num_decode_tokens: int,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
    slot_mapping: Tensor,
    decode_slots: Tensor,
    decode_lens: Tensor,
    prefill_indices: Tensor,
    max_width: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of layers that see every entry: see ``reference.index_builders.c128a_metadata``."""
    contract.check_c128a(
        positions, num_decode_tokens, token_to_req, block_table, slot_mapping, decode_slots, decode_lens,
        prefill_indices, max_width,
    )  # fmt: skip
    widths = decode_slots.shape[1], prefill_indices.shape[1]
    if positions.shape[0]:
        _c128a_kernel[(positions.shape[0], triton.cdiv(max(widths), WIDE_COLUMNS))](
            positions, token_to_req, block_table, slot_mapping, decode_slots, decode_lens, prefill_indices,
            num_decode_tokens, block_table.stride(0), *block_table.shape, decode_slots.stride(0),
            prefill_indices.stride(0), *widths, max_width,
            RATIO=ratio, BLOCK_SIZE=block_size, COLUMNS=WIDE_COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return contract.c128a_views(positions, num_decode_tokens, decode_slots, decode_lens, prefill_indices)


def decode_swa_slots(
    positions: Tensor,
    token_to_req: Tensor,
    block_table: Tensor,
    block_size: int,
    is_valid: Tensor,
    window: int = 128,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Slots of the decode tokens' windows: see ``reference.index_builders.decode_swa_slots``."""
    slots, lens = contract.check_decode_swa(positions, token_to_req, block_table, is_valid, window, out)
    tokens, width = slots.shape
    if tokens:
        _decode_swa_kernel[(triton.cdiv(tokens, ROWS), triton.cdiv(width, SWA_COLUMNS))](
            positions, token_to_req, block_table, is_valid.view(torch.uint8), slots, lens, tokens,
            block_table.stride(0), *block_table.shape, window, slots.stride(0), width,
            BLOCK_SIZE=block_size, ROWS=ROWS, COLUMNS=SWA_COLUMNS, num_warps=WARPS,
        )  # fmt: skip
    return slots, lens


def compile_cases() -> list[CompileCase]:
    """Every shipped configuration, with the int32 metadata and int64 positions and slots of the engines."""
    return [
        *(_topk_case(size) for size in (64, 256)),
        *(_swa_case(size) for size in (64, 256)),
        _combine_case(),
        _c128a_case(),
    ]


def _topk_case(block_size: int) -> CompileCase:
    strides = ("topk_stride", "slots_stride", "topk", "width")
    signature = {
        **_pointers("topk_ptr", "request_ptr", "table_ptr", "slots_ptr", "lens_ptr"), "valid_ptr": "*u8",
        **_ints("tokens", "table_stride", "requests", "blocks", *strides),
    }  # fmt: skip
    constexprs = {"BLOCK_SIZE": block_size, "ROWS": ROWS, "COLUMNS": COLUMNS}
    config = f"block {block_size}"
    # Triton 3.9 keeps 8 bytes a thread in local memory (3.8 none). Bound by memory, not by that.
    return CompileCase(
        "global_topk_slots",
        config,
        _global_topk_kernel,
        signature,
        constexprs,
        WARPS,
        divisible=strides,
        spill_free=False,
    )


def _swa_case(block_size: int) -> CompileCase:
    strides = ("slots_stride", "width")
    signature = {
        "positions_ptr": "*i64", **_pointers("request_ptr", "table_ptr", "slots_ptr", "lens_ptr"), "valid_ptr": "*u8",
        **_ints("tokens", "table_stride", "requests", "blocks", "window", *strides),
    }  # fmt: skip
    constexprs = {"BLOCK_SIZE": block_size, "ROWS": ROWS, "COLUMNS": SWA_COLUMNS}
    config = f"block {block_size}"
    return CompileCase("decode_swa_slots", config, _decode_swa_kernel, signature, constexprs, WARPS, divisible=strides)


def _combine_case() -> CompileCase:
    strides = ("topk_stride", "out_stride", "width")
    signature = {
        **_pointers("topk_ptr", "query_start_ptr", "seq_lens_ptr", "gather_lens_ptr", "out_ptr", "lens_ptr"),
        **_ints("tokens", "requests", "window", "ratio", "topk", "workspace_rows", "swa_row", *strides),
    }
    constexprs = {"ROWS": ROWS, "COLUMNS": COLUMNS}
    return CompileCase("combine_topk_swa", "any", _combine_kernel, signature, constexprs, WARPS, divisible=strides)


def _c128a_case() -> CompileCase:
    strides = ("slots_stride", "local_stride", "slots_width", "local_width", "max_width")
    signature = {
        "positions_ptr": "*i64", **_pointers("request_ptr", "table_ptr", "slots_ptr", "lens_ptr", "local_ptr"),
        "slot_ptr": "*i64", **_ints("num_decode", "table_stride", "requests", "blocks", *strides),
    }  # fmt: skip
    constexprs = {"RATIO": 128, "BLOCK_SIZE": 2, "COLUMNS": WIDE_COLUMNS}
    config = "ratio 128 block 2"
    return CompileCase("c128a_metadata", config, _c128a_kernel, signature, constexprs, WARPS, divisible=strides)


def _pointers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "*i32")


def _ints(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "i32")
