"""Sparse MLA prefill for Hopper: 128 candidates are the rows of the score product.

``q @ k^T`` with 64 heads has 64 rows: two warpgroups would compute it twice, in instructions of 16 columns. Transposed,
``k @ q^T`` has 128 rows and 64 columns. The keys come in pieces of 128 dimensions, so that what is between memory and
shared memory stays in registers. Needs about 210 KiB of shared memory: not for SM12x.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ds4_kernels.triton.attention_mma import store_lse
from ds4_kernels.triton.common import dot, to_bf16


@triton.jit
def _scores(k0, k1, k2, k3, k4, q0, q1, q2, q3, q4, valid, scale_log2, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr):
    scores = dot(k0, tl.trans(q0), tl.zeros((BLOCK_C, BLOCK_H), tl.float32))
    scores = dot(k1, tl.trans(q1), scores)
    scores = dot(k2, tl.trans(q2), scores)
    scores = dot(k3, tl.trans(q3), scores)
    scores = dot(k4, tl.trans(q4), scores)
    return tl.where(valid[:, None], scores * scale_log2, float("-inf"))


@triton.jit
def _softmax_columns(scores, maximum, denominator):
    """Running softmax over base-2 logits ``[C, H]``: (BF16 weights ``[H, C]``, decay, maximum, denominator ``[H]``)."""
    new_maximum = tl.maximum(maximum, tl.max(scores, axis=0))
    guard = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    weights = tl.exp2(scores - guard[None, :])
    decay = tl.exp2(maximum - guard)
    return tl.trans(to_bf16(weights)), decay, new_maximum, denominator * decay + tl.sum(weights, axis=0)


@triton.jit
def _load_query(q, token, head, heads, D: tl.constexpr):
    row = q + (token.to(tl.int64) * heads + tl.minimum(head, heads - 1))[:, None] * D
    wide = tl.arange(0, 128)[None, :]
    narrow = tl.arange(0, 64)[None, :]
    return (tl.load(row + wide), tl.load(row + 128 + wide), tl.load(row + 256 + wide), tl.load(row + 384 + narrow),
            tl.load(row + 448 + narrow))  # fmt: skip


@triton.jit
def _store_rows(target, a0, a1, a2, a3, a4, factor, stored):
    """Store the five pieces of ``[H, 512]`` times ``factor [H, 1]`` in the target's type."""
    wide = tl.arange(0, 128)[None, :]
    narrow = tl.arange(0, 64)[None, :]
    tl.store(target + wide, (a0 * factor).to(target.dtype.element_ty), mask=stored)
    tl.store(target + 128 + wide, (a1 * factor).to(target.dtype.element_ty), mask=stored)
    tl.store(target + 256 + wide, (a2 * factor).to(target.dtype.element_ty), mask=stored)
    tl.store(target + 384 + narrow, (a3 * factor).to(target.dtype.element_ty), mask=stored)
    tl.store(target + 448 + narrow, (a4 * factor).to(target.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["width", "num_rows", "heads", "out_heads", "index_stride"])
def prefill_kernel(
    q, kv, indices, lens, sink, out, lse, scale_log2, width, index_stride, num_rows, heads, out_heads,
    HAS_SINK: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    head_blocks = tl.cdiv(out_heads, BLOCK_H)
    token = tl.program_id(0) // head_blocks
    head = (tl.program_id(0) % head_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    q0, q1, q2, q3, q4 = _load_query(q, token, head, heads, D)
    length = tl.minimum(tl.load(lens + token), width)
    maximum = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    denominator = tl.zeros((BLOCK_H,), tl.float32)
    a0 = tl.zeros((BLOCK_H, 128), tl.float32)
    a1 = tl.zeros((BLOCK_H, 128), tl.float32)
    a2 = tl.zeros((BLOCK_H, 128), tl.float32)
    a3 = tl.zeros((BLOCK_H, 64), tl.float32)
    a4 = tl.zeros((BLOCK_H, 64), tl.float32)
    wide = tl.arange(0, 128)[None, :]
    narrow = tl.arange(0, 64)[None, :]
    row_indices = indices + token.to(tl.int64) * index_stride
    for first in range(0, length, BLOCK_C):
        column = first + tl.arange(0, BLOCK_C)
        index = tl.load(row_indices + column, mask=column < length, other=-1)
        valid = (index >= 0) & (index < num_rows)
        row = kv + tl.where(valid, index, 0).to(tl.int64)[:, None] * D
        wanted = valid[:, None]
        k0 = tl.load(row + wide, mask=wanted, other=0.0)
        k1 = tl.load(row + 128 + wide, mask=wanted, other=0.0)
        k2 = tl.load(row + 256 + wide, mask=wanted, other=0.0)
        k3 = tl.load(row + 384 + narrow, mask=wanted, other=0.0)
        k4 = tl.load(row + 448 + narrow, mask=wanted, other=0.0)
        scores = _scores(k0, k1, k2, k3, k4, q0, q1, q2, q3, q4, valid, scale_log2, BLOCK_C, BLOCK_H)
        weights, decay, maximum, denominator = _softmax_columns(scores, maximum, denominator)
        a0 = dot(weights, k0, a0 * decay[:, None])
        a1 = dot(weights, k1, a1 * decay[:, None])
        a2 = dot(weights, k2, a2 * decay[:, None])
        a3 = dot(weights, k3, a3 * decay[:, None])
        a4 = dot(weights, k4, a4 * decay[:, None])
    factor = store_lse(lse, sink, token, head, heads, maximum, denominator, HAS_SINK)
    target = out + (token.to(tl.int64) * out_heads + head)[:, None] * D
    _store_rows(target, a0, a1, a2, a3, a4, factor[:, None], (head < out_heads)[:, None])
