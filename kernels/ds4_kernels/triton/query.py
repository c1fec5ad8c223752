"""Query side of a layer in Triton: norm and rope of q, rope and insert of kv, FP8 indexer queries.

Contracts: ``reference.query``. The 64 rope dimensions of a row are a tile of their own, worked on as pairs (2i, 2i + 1).
Launched without FMA fusion: the reference rounds every product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ds4_kernels import layouts
from ds4_kernels.reference import query as contract
from ds4_kernels.triton.cache import NOPE, load_mla_nope, mla_rope_address, store_mla_nope
from ds4_kernels.triton.common import (
    E4M3_MAX,
    FP8_AMAX_FLOOR,
    INTERPRETED,
    inverse_pow2,
    pow2,
    scale_byte,
    to_bf16,
    to_e4m3,
)
from ds4_kernels.triton.compile_case import CompileCase

HEAD = tl.constexpr(layouts.HEAD_DIM)
INDEX = tl.constexpr(layouts.INDEX_DIM)
ROPE = tl.constexpr(layouts.ROPE_DIM)

QUERY_HEADS, QUERY_WARPS = 4, 1
"""One warp holds whole heads: the sum of squares then needs no exchange between warps and half the shuffles."""
INDEX_HEADS, KV_ROWS, WARPS = 32, 4, 4


@triton.jit
def _rounded_sum(a, b):
    """(a + b rounded, its rounding error): Knuth's TwoSum."""
    high = a + b
    b_seen = high - a
    return high, (a - (high - b_seen)) + (b - b_seen)


@triton.jit
def _add_pairs(a_high, a_low, b_high, b_low):
    """Add two unevaluated sums: about 48 bits, so that the order of a reduction does not show in FP32."""
    high, error = _rounded_sum(a_high, b_high)
    return high, error + (a_low + b_low)


@triton.jit
def sum_of_squares(even, odd):
    """Sum over the last axis of BF16-valued ``even^2 + odd^2`` (FP32 holds these squares exactly), rounded once."""
    axis: tl.constexpr = len(even.shape) - 1
    if INTERPRETED:
        wide_even, wide_odd = even.to(tl.float64), odd.to(tl.float64)
        return tl.sum(wide_even * wide_even + wide_odd * wide_odd, axis=axis).to(tl.float32)
    else:
        high, low = _rounded_sum(even * even, odd * odd)
        high, low = tl.reduce((high, low), axis, _add_pairs)
        return high + low


@triton.jit
def inverse_rms(even, odd, eps):
    """``1 / sqrt(mean(x^2) + eps)`` over the last axis of pairs of BF16 values."""
    size: tl.constexpr = 2 * even.shape[len(even.shape) - 1]
    root = tl.sqrt_rn(sum_of_squares(even, odd) * (1.0 / size) + eps)
    return tl.div_rn(tl.full(root.shape, 1.0, tl.float32), root)


@triton.jit
def rotate(even, odd, cos, sin):
    """GPT-J rotation of pairs."""
    return even * cos - odd * sin, odd * cos + even * sin


@triton.jit
def rotate_last(even, odd, cos, sin, PAIRS: tl.constexpr):
    """GPT-J rotation of the last 32 of ``PAIRS`` pairs; the others pass unchanged, zeros included."""
    rotated = tl.arange(0, PAIRS) >= PAIRS - ROPE // 2
    new_even, new_odd = rotate(even, odd, cos, sin)
    return tl.where(rotated, new_even, even), tl.where(rotated, new_odd, odd)


@triton.jit
def rope_pairs(cos_sin_ptr, max_position, position, PAIRS: tl.constexpr):
    """(cos, sin) FP32 [..., PAIRS] of int64 positions [...]: the table's 32 values belong to the last 32 pairs."""
    pair = tl.arange(0, PAIRS) - (PAIRS - ROPE // 2)
    rotated = pair >= 0
    column = tl.maximum(pair, 0)
    row = cos_sin_ptr + tl.minimum(tl.maximum(position, 0), max_position - 1) * ROPE
    if len(position.shape) == 1:
        cos = tl.load(row[:, None] + column[None, :], mask=rotated[None, :], other=1.0)
        sin = tl.load(row[:, None] + (column + ROPE // 2)[None, :], mask=rotated[None, :], other=0.0)
    else:
        cos = tl.load(row + column, mask=rotated, other=1.0)
        sin = tl.load(row + column + ROPE // 2, mask=rotated, other=0.0)
    return cos, sin


@triton.jit(do_not_specialize=["max_position", "eps"])
def _query_kernel(
    q_ptr, position_ptr, cos_sin_ptr, out_ptr, max_position, eps, heads, out_heads, head_blocks, q_stride,
    q_head_stride, out_stride, out_head_stride, HEADS: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEADS + tl.arange(0, HEADS)
    real = head < heads
    source = q_ptr + token * q_stride + tl.where(real, head, 0) * q_head_stride
    target = out_ptr + token * out_stride + head * out_head_stride
    stored = (head < out_heads)[:, None]
    column = tl.arange(0, HEAD)[None, :]
    x = tl.load(source[:, None] + column, mask=real[:, None], other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(x, (HEADS, HEAD // 2, 2)))
    factor = inverse_rms(even, odd, eps)[:, None]
    tail = tl.arange(0, ROPE)[None, :] + NOPE  # read again, from the cache: a tile of its own for the rotation
    rope = tl.load(source[:, None] + tail, mask=real[:, None], other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(rope, (HEADS, ROPE // 2, 2)))
    cos, sin = rope_pairs(cos_sin_ptr, max_position, tl.load(position_ptr + token).to(tl.int64), ROPE // 2)
    even, odd = rotate(even * factor, odd * factor, cos[None, :], sin[None, :])
    rope = tl.where(real[:, None], tl.reshape(tl.join(even, odd), (HEADS, ROPE)), 0.0)
    tl.store(target[:, None] + column, to_bf16(x * factor), mask=stored & (column < NOPE))
    tl.store(target[:, None] + tail, to_bf16(rope), mask=stored)


@triton.jit(do_not_specialize=["tokens", "max_position"])
def _kv_kernel(
    kv_ptr, position_ptr, cos_sin_ptr, cache_ptr, slot_ptr, tokens, max_position, kv_stride, cache_stride,
    BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.load(slot_ptr + token, mask=token < tokens, other=-1)
    keep = slot >= 0
    token = tl.where(keep, token, 0).to(tl.int64)
    row = kv_ptr + token * kv_stride
    store_mla_nope(cache_ptr, cache_stride, slot, keep, load_mla_nope(row, keep), BLOCK_SIZE)
    column = tl.arange(0, ROPE)[None, :]
    x = tl.load(row[:, None] + NOPE + column, mask=keep[:, None], other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(x, (ROWS, ROPE // 2, 2)))
    position = tl.load(position_ptr + token, mask=keep, other=0).to(tl.int64)
    cos, sin = rope_pairs(cos_sin_ptr, max_position, position, ROPE // 2)
    even, odd = rotate(even, odd, cos, sin)
    target = mla_rope_address(cache_ptr, cache_stride, tl.where(keep, slot, 0), BLOCK_SIZE)
    tl.store(target[:, None] + column, to_bf16(tl.reshape(tl.join(even, odd), (ROWS, ROPE))), mask=keep[:, None])


@triton.jit(do_not_specialize=["max_position", "factor"])
def _indexer_kernel(
    q_ptr, weights_ptr, position_ptr, cos_sin_ptr, out_ptr, weights_out_ptr, max_position, factor, heads, head_blocks,
    q_stride, q_head_stride, weights_stride, HEADS: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEADS + tl.arange(0, HEADS)
    real = head < heads
    safe_head = tl.where(real, head, 0)
    column = tl.arange(0, ROPE)[None, :]
    source = (q_ptr + token * q_stride + safe_head * q_head_stride)[:, None] + column
    nope = tl.load(source, mask=real[:, None], other=0.0).to(tl.float32)
    rope = tl.load(source + (INDEX - ROPE), mask=real[:, None], other=0.0).to(tl.float32)
    weight = tl.load(weights_ptr + token * weights_stride + safe_head, mask=real, other=0.0)
    even, odd = tl.split(tl.reshape(rope, (HEADS, ROPE // 2, 2)))
    cos, sin = rope_pairs(cos_sin_ptr, max_position, tl.load(position_ptr + token).to(tl.int64), ROPE // 2)
    even, odd = rotate(even, odd, cos[None, :], sin[None, :])
    rope = to_bf16(tl.reshape(tl.join(even, odd), (HEADS, ROPE))).to(tl.float32)
    amax = tl.maximum(tl.max(tl.abs(nope), axis=1), tl.max(tl.abs(rope), axis=1))
    byte = scale_byte(amax, E4M3_MAX, FP8_AMAX_FLOOR)
    inverse = inverse_pow2(byte)[:, None]
    target = (out_ptr + (token * heads + safe_head) * INDEX)[:, None] + column
    tl.store(target, to_e4m3(nope * inverse).to(tl.uint8, bitcast=True), mask=real[:, None])
    tl.store(target + (INDEX - ROPE), to_e4m3(rope * inverse).to(tl.uint8, bitcast=True), mask=real[:, None])
    tl.store(weights_out_ptr + token * heads + safe_head, weight * pow2(byte) * factor, mask=real)


def query_norm_rope(q: Tensor, positions: Tensor, cos_sin: Tensor, eps: float, out: Tensor) -> None:
    """Norm and rope of every query head: see ``reference.query.query_norm_rope``."""
    contract.check_query(q, positions, cos_sin, out)
    tokens, heads, _ = q.shape
    blocks = triton.cdiv(out.shape[1], QUERY_HEADS)
    if tokens and blocks:
        _query_kernel[(tokens * blocks,)](
            q, positions, cos_sin, out, cos_sin.shape[0], eps, heads, out.shape[1], blocks, q.stride(0), q.stride(1),
            out.stride(0), out.stride(1), HEADS=QUERY_HEADS, num_warps=QUERY_WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def kv_rope_insert(
    kv: Tensor, positions: Tensor, cos_sin: Tensor, cache: Tensor, slot_mapping: Tensor, block_size: int
) -> None:
    """Rope normed keys and store them as cache slots: see ``reference.query.kv_rope_insert``."""
    contract.check_kv_insert(kv, positions, cos_sin, cache, slot_mapping, block_size)
    tokens = slot_mapping.shape[0]
    if tokens:
        _kv_kernel[(triton.cdiv(tokens, KV_ROWS),)](
            kv, positions, cos_sin, cache, slot_mapping, tokens, cos_sin.shape[0], kv.stride(0), cache.stride(0),
            BLOCK_SIZE=block_size, ROWS=KV_ROWS, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip


def indexer_query(index_q: Tensor, weights: Tensor, positions: Tensor, cos_sin: Tensor) -> tuple[Tensor, Tensor]:
    """FP8 indexer queries and their head weights: see ``reference.query.indexer_query``."""
    contract.check_indexer_query(index_q, weights, positions, cos_sin)
    tokens, heads, dim = index_q.shape
    q = torch.empty(tokens, heads, dim, dtype=torch.uint8, device=index_q.device)
    weights_out = torch.empty(tokens, heads, dtype=torch.float32, device=index_q.device)
    blocks = triton.cdiv(heads, INDEX_HEADS)
    if tokens and heads:
        _indexer_kernel[(tokens * blocks,)](
            index_q, weights, positions, cos_sin, q, weights_out, cos_sin.shape[0],
            contract.indexer_weight_factor(heads), heads, blocks, index_q.stride(0), index_q.stride(1),
            weights.stride(0), HEADS=INDEX_HEADS, num_warps=WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return q.view(torch.float8_e4m3fn), weights_out


def compile_cases() -> list[CompileCase]:
    """Every shipped configuration."""
    tables = {"position_ptr": "*i64", "cos_sin_ptr": "*fp32"}
    strides = ("q_stride", "q_head_stride", "out_stride", "out_head_stride")
    query = {
        "q_ptr": "*bf16", **tables, "out_ptr": "*bf16", "max_position": "i32", "eps": "fp32", "heads": "i32",
        "out_heads": "i32", "head_blocks": "i32", **dict.fromkeys(strides, "i32"),
    }  # fmt: skip
    indexer_strides = ("heads", "q_stride", "q_head_stride", "weights_stride")
    indexer = {
        "q_ptr": "*bf16", "weights_ptr": "*fp32", **tables, "out_ptr": "*u8", "weights_out_ptr": "*fp32",
        "max_position": "i32", "factor": "fp32", "head_blocks": "i32", **dict.fromkeys(indexer_strides, "i32"),
    }  # fmt: skip
    kv_strides = ("kv_stride", "cache_stride")
    kv = {
        "kv_ptr": "*bf16", **tables, "cache_ptr": "*u8", "slot_ptr": "*i64", "tokens": "i32", "max_position": "i32",
        **dict.fromkeys(kv_strides, "i32"),
    }  # fmt: skip
    return [
        CompileCase(
            "query_norm_rope", f"heads {QUERY_HEADS}", _query_kernel, query, {"HEADS": QUERY_HEADS}, QUERY_WARPS,
            divisible=strides,
        ),
        CompileCase(
            "indexer_query", f"heads {INDEX_HEADS}", _indexer_kernel, indexer, {"HEADS": INDEX_HEADS}, WARPS,
            divisible=indexer_strides,
        ),
        *(
            CompileCase(
                "kv_rope_insert", f"block {size}", _kv_kernel, kv, {"BLOCK_SIZE": size, "ROWS": KV_ROWS}, WARPS,
                divisible=kv_strides,
            )
            for size in (64, 256)
        ),
    ]  # fmt: skip
