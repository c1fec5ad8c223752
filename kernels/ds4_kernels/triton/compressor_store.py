"""The compressor's state writes and entry stores in Triton. Contracts: ``reference.compressor_store``.

One program per token; a token that ends no window exits at once. A program loads its window's rows as tiles of 8 or 16
rows that lie wholly in each thread's registers, so sums over rows need no exchange and have a known order. Launched
without FMA fusion: the reference rounds every product.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference import compressor_store as contract
from ds4_kernels.reference.compressor import overlap
from ds4_kernels.reference.compressor_store import Kind
from ds4_kernels.triton.cache import GROUP, GROUPS, mla_rope_address, store_indexer, store_mla_nope
from ds4_kernels.triton.common import to_bf16
from ds4_kernels.triton.compile_case import CompileCase
from ds4_kernels.triton.query import inverse_rms, rope_pairs, rotate_last

ROPE = tl.constexpr(layouts.ROPE_DIM)
EXP_LOWEST = tl.constexpr(contract.EXP_LOWEST)
LOG2_E = tl.constexpr(contract.LOG2_E)
LN2_HIGH = tl.constexpr(contract.LN2_HIGH)
LN2_LOW = tl.constexpr(contract.LN2_LOW)
ROUND_TO_INTEGER = tl.constexpr(contract.ROUND_TO_INTEGER)
C0, C1, C2, C3, C4, C5 = (tl.constexpr(c) for c in contract.EXP_POLYNOMIAL)

SAVE_ELEMENTS = 2048
"""Numbers of kv (and of score) that a program of the state write takes: 4 16-byte loads a thread of each."""
WARPS = {("mla", 4): 4, ("mla", 128): 8, ("indexer", 4): 1, ("indexer", 128): 2}
"""A warp for each 128 dimensions, so that a row is one 16-byte load of every thread; twice as many for long windows."""


@triton.jit
def _exp(x):
    clamped = tl.maximum(x, EXP_LOWEST)
    turns = (clamped * LOG2_E + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
    r = (clamped - turns * LN2_HIGH) - turns * LN2_LOW
    p = ((((C0 * r + C1) * r + C2) * r + C3) * r + C4) * r + C5
    p = (p * (r * r) + r) + 1.0
    power = ((turns.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < EXP_LOWEST, 0.0, p * power)


@triton.jit
def _tree_sum(x, ROWS: tl.constexpr, DIM: tl.constexpr):
    """Sum over the 8 or 16 rows of [ROWS, DIM] by halving. A sum of two numbers has one order."""
    if ROWS == 16:
        x = tl.sum(tl.reshape(x, (2, 8, DIM)), axis=0)
    x = tl.sum(tl.reshape(x, (2, 4, DIM)), axis=0)
    x = tl.sum(tl.reshape(x, (2, 2, DIM)), axis=0)
    return tl.sum(x, axis=0)


@triton.jit
def _window_rows(
    state_ptr, table_ptr, state_stride, row_stride, first, position, RATIO: tl.constexpr, COFF: tl.constexpr,
    STATE_BLOCK: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """(pointers to the kv part [ROWS, DIM] of a window's rows ``first ..``, mask [ROWS, 1] of existing positions)."""
    item = first + tl.arange(0, ROWS)
    at = position - (COFF * RATIO - 1) + item
    exists = at >= 0
    safe = tl.maximum(at, 0)
    block = tl.load(table_ptr + safe // STATE_BLOCK, mask=exists, other=0).to(tl.int64)
    half = (item // RATIO) * DIM  # ratio 4: the window before gives its first half, the own window its second
    row = state_ptr + block * state_stride + (safe % STATE_BLOCK) * row_stride + half
    return row[:, None] + tl.arange(0, DIM)[None, :], exists[:, None]


@triton.jit
def _pool(
    state_ptr, table_ptr, state_stride, row_stride, position, RATIO: tl.constexpr, COFF: tl.constexpr,
    STATE_BLOCK: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """Softmax-weighted mean of a window's rows, FP32 [DIM]. Long windows read their scores twice."""
    SCORE: tl.constexpr = COFF * DIM
    minus_infinity = float("-inf")
    if COFF * RATIO == ROWS:
        at, exists = _window_rows(
            state_ptr, table_ptr, state_stride, row_stride, 0, position, RATIO, COFF, STATE_BLOCK, ROWS, DIM
        )
        score = tl.load(at + SCORE, mask=exists, other=minus_infinity)
        kv = tl.load(at, mask=exists, other=0.0)
        weight = _exp(score - tl.max(score, axis=0)[None, :])
        return tl.div_rn(_tree_sum(weight * kv, ROWS, DIM) + 0.0, _tree_sum(weight, ROWS, DIM))
    else:
        highest = tl.full((DIM,), minus_infinity, tl.float32)
        for first in range(0, COFF * RATIO, ROWS):
            at, exists = _window_rows(
                state_ptr, table_ptr, state_stride, row_stride, first, position, RATIO, COFF, STATE_BLOCK, ROWS, DIM
            )
            score = tl.load(at + SCORE, mask=exists, other=minus_infinity)
            highest = tl.maximum(highest, tl.max(score, axis=0))
        total = tl.zeros((DIM,), tl.float32)
        weights = tl.zeros((DIM,), tl.float32)
        for first in range(0, COFF * RATIO, ROWS):
            at, exists = _window_rows(
                state_ptr, table_ptr, state_stride, row_stride, first, position, RATIO, COFF, STATE_BLOCK, ROWS, DIM
            )
            score = tl.load(at + SCORE, mask=exists, other=minus_infinity)
            kv = tl.load(at, mask=exists, other=0.0)
            weight = _exp(score - highest[None, :])
            total += _tree_sum(weight * kv, ROWS, DIM)
            weights += _tree_sum(weight, ROWS, DIM)
        return tl.div_rn(total, weights)


@triton.jit(do_not_specialize=["eps", "max_position", "table_stride"])
def _compress_kernel(
    state_ptr, table_ptr, request_ptr, position_ptr, slot_ptr, weight_ptr, cos_sin_ptr, cache_ptr, eps, max_position,
    table_stride, state_stride, row_stride, cache_stride,
    RATIO: tl.constexpr, COFF: tl.constexpr, STATE_BLOCK: tl.constexpr, ROWS: tl.constexpr, DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, MLA: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    slot = tl.load(slot_ptr + token)
    position = tl.load(position_ptr + token).to(tl.int32)
    if (slot < 0) | ((position + 1) % RATIO != 0):
        return
    PAIRS: tl.constexpr = DIM // 2
    pair = tl.arange(0, PAIRS)
    weight_even = tl.load(weight_ptr + 2 * pair).to(tl.float32)
    weight_odd = tl.load(weight_ptr + 2 * pair + 1).to(tl.float32)
    cos, sin = rope_pairs(cos_sin_ptr, max_position, (position // RATIO * RATIO).to(tl.int64), PAIRS)
    table = table_ptr + tl.load(request_ptr + token).to(tl.int64) * table_stride

    pooled = _pool(state_ptr, table, state_stride, row_stride, position, RATIO, COFF, STATE_BLOCK, ROWS, DIM)
    even, odd = tl.split(tl.reshape(to_bf16(pooled).to(tl.float32), (PAIRS, 2)))
    factor = inverse_rms(even, odd, eps)
    even = to_bf16(even * factor * weight_even).to(tl.float32)
    odd = to_bf16(odd * factor * weight_odd).to(tl.float32)
    even, odd = rotate_last(even, odd, cos, sin, PAIRS)
    entry = to_bf16(tl.join(even, odd)).to(tl.float32)
    slots = tl.full((1,), 0, tl.int64) + slot
    if MLA:
        store_mla_nope(cache_ptr, cache_stride, slots, slots >= 0, tl.reshape(entry, (1, GROUPS, GROUP)), BLOCK_SIZE)
        rope_pair = pair - (PAIRS - ROPE // 2)
        target = mla_rope_address(cache_ptr, cache_stride, slot, BLOCK_SIZE) + 2 * tl.maximum(rope_pair, 0)
        tl.store(target, to_bf16(even), mask=rope_pair >= 0)
        tl.store(target + 1, to_bf16(odd), mask=rope_pair >= 0)
    else:
        store_indexer(cache_ptr, cache_stride, slots, slots >= 0, tl.reshape(entry, (1, DIM)), BLOCK_SIZE)


@triton.jit(do_not_specialize=["tokens", "ratio"])
def _state_save_kernel(
    kv_ptr, score_ptr, ape_ptr, position_ptr, slot_ptr, state_ptr, tokens, ratio, state_block, kv_stride, score_stride,
    ape_stride, state_stride, row_stride, ROWS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slot_ptr + token, mask=token < tokens, other=-1)
    keep = slot >= 0
    slot = tl.where(keep, slot, 0)
    token = tl.where(keep, token, 0).to(tl.int64)
    position = tl.load(position_ptr + token, mask=keep, other=0).to(tl.int32)
    column = tl.arange(0, WIDTH)[None, :]
    mask = keep[:, None]
    kv = tl.load(kv_ptr + (token * kv_stride)[:, None] + column, mask=mask, other=0.0)
    score = tl.load(score_ptr + (token * score_stride)[:, None] + column, mask=mask, other=0.0)
    bias = tl.load(ape_ptr + (position % ratio * ape_stride)[:, None] + column, mask=mask, other=0.0)
    target = state_ptr + (slot // state_block * state_stride + slot % state_block * row_stride)[:, None] + column
    tl.store(target, kv, mask=mask)
    tl.store(target + WIDTH, score + bias, mask=mask)


def state_save(kv: Tensor, score: Tensor, ape: Tensor, positions: Tensor, slots: Tensor, state: Tensor) -> None:
    """Write kv and biased scores to the state cache: see ``reference.compressor_store.state_save``."""
    contract.check_state_save(kv, score, ape, positions, slots, state)
    tokens, width = slots.shape[0], kv.shape[1]
    if width & (width - 1):
        raise ValueError(f"the width of kv must be a power of two, not {width}")
    rows = _save_rows(width)
    if tokens:
        _state_save_kernel[(triton.cdiv(tokens, rows),)](
            kv, score, ape, positions, slots, state, tokens, ape.shape[0], state.shape[1], kv.stride(0),
            score.stride(0), ape.stride(0), state.stride(0), state.stride(1), ROWS=rows, WIDTH=width, num_warps=4,
        )  # fmt: skip


def compress_store(
    state: Tensor,
    state_block_table: Tensor,
    token_to_req: Tensor,
    positions: Tensor,
    slot_mapping: Tensor,
    norm_weight: Tensor,
    eps: float,
    cos_sin: Tensor,
    ratio: int,
    cache: Tensor,
    block_size: int,
    kind: Kind,
) -> None:
    """Pool, norm, rope, quantise and store entries: see ``reference.compressor_store.compress_store``."""
    contract.check_compress(
        state, state_block_table, token_to_req, positions, slot_mapping, norm_weight, cos_sin, ratio, cache, block_size,
        kind,
    )  # fmt: skip
    tokens = positions.shape[0]
    if tokens:
        _compress_kernel[(tokens,)](
            state, state_block_table, token_to_req, positions, slot_mapping, norm_weight, cos_sin, cache, eps,
            cos_sin.shape[0], state_block_table.stride(0), state.stride(0), state.stride(1), cache.stride(0),
            **_compress_constexprs(kind, ratio, state.shape[1], block_size),
            num_warps=WARPS[kind, ratio], enable_fp_fusion=False,
        )  # fmt: skip


def _save_rows(width: int) -> int:
    return max(1, SAVE_ELEMENTS // width)


def _compress_constexprs(kind: Kind, ratio: int, state_block: int, block_size: int) -> dict[str, int | bool]:
    return {
        "RATIO": ratio,
        "COFF": overlap(ratio),
        "STATE_BLOCK": state_block,
        "ROWS": min(contract.POOL_CHUNK, overlap(ratio) * ratio),
        "DIM": contract.entry_dim(kind),
        "BLOCK_SIZE": block_size,
        "MLA": kind == "mla",
    }


def compile_cases() -> list[CompileCase]:
    """Every shipped configuration: C4A and C128A entries and the indexer's (in the model: ratio 4), BF16 norm weights."""
    strides = ("state_stride", "row_stride", "cache_stride")
    signature = {
        "state_ptr": "*fp32", "table_ptr": "*i32", "request_ptr": "*i32", "position_ptr": "*i64", "slot_ptr": "*i64",
        "weight_ptr": "*bf16", "cos_sin_ptr": "*fp32", "cache_ptr": "*u8", "eps": "fp32", "max_position": "i32",
        "table_stride": "i32", **dict.fromkeys(strides, "i32"),
    }  # fmt: skip
    configs: list[tuple[Kind, int, int]] = [("mla", 4, 64), ("mla", 128, 2), ("indexer", 4, 64), ("indexer", 128, 64)]
    cases = []
    for kind, ratio, block_size in configs:
        constexprs = _compress_constexprs(kind, ratio, 4 if ratio == 4 else 8, block_size)
        config, warps = f"{kind} ratio {ratio}", WARPS[kind, ratio]
        cases.append(
            CompileCase("compress_store", config, _compress_kernel, signature, constexprs, warps, divisible=strides)
        )
    save_strides = ("kv_stride", "score_stride", "ape_stride", "state_stride", "row_stride")
    signature = {
        **dict.fromkeys(("kv_ptr", "score_ptr", "ape_ptr"), "*fp32"), "position_ptr": "*i64", "slot_ptr": "*i64",
        "state_ptr": "*fp32", **dict.fromkeys(("tokens", "ratio", "state_block", *save_strides), "i32"),
    }  # fmt: skip
    for width in (256, 512, 1024):
        constexprs = {"ROWS": _save_rows(width), "WIDTH": width}
        cases.append(
            CompileCase(
                "state_save", f"width {width}", _state_save_kernel, signature, constexprs, 4, divisible=save_strides
            )
        )
    return cases
