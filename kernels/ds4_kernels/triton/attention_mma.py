"""Sparse MLA attention on tensor cores, for every GPU: heads are the rows of the MMA, candidates its columns.

Prefill gathers BF16 rows of a workspace by index. Decode reads the 584-byte slots and dequantises in registers. One key
tile is key and value: it is loaded once for all heads of a program and enters both products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ds4_kernels.triton.common import LN_2, LOG2_E, dot, pow2, to_bf16
from ds4_kernels.triton.dependent import wait


@triton.jit
def softmax_step(scores, valid, maximum, denominator):
    """Running softmax over base-2 logits ``[H, C]``: (BF16 weights, factor of what came before, maximum, denominator).

    Rows of only -inf stay the empty state.
    """
    scores = tl.where(valid[None, :], scores, float("-inf"))
    new_maximum = tl.maximum(maximum, tl.max(scores, axis=1))
    guard = tl.where(new_maximum == float("-inf"), 0.0, new_maximum)
    weights = tl.exp2(scores - guard[:, None])
    decay = tl.exp2(maximum - guard)
    return to_bf16(weights), decay, new_maximum, denominator * decay + tl.sum(weights, axis=1)


@triton.jit
def lse_and_factor(sink, head, heads, maximum, denominator, HAS_SINK: tl.constexpr):
    """The lse (``maximum`` is base 2; -inf for empty rows), and the factor of the accumulators (0 for those)."""
    real = head < heads
    guard = tl.where(maximum == float("-inf"), 0.0, maximum)
    total = denominator
    if HAS_SINK:
        logit = tl.load(sink + head, mask=real, other=float("-inf")) * LOG2_E
        total += tl.exp2(logit - guard)
    filled = real & (denominator > 0)
    value = guard * LN_2 + tl.log(tl.where(denominator > 0, denominator, 1.0))
    return tl.where(denominator > 0, value, float("-inf")), tl.where(filled, 1.0 / tl.where(filled, total, 1.0), 0.0)


@triton.jit
def store_lse(lse, sink, token, head, heads, maximum, denominator, HAS_SINK: tl.constexpr):
    """Store the lse and return the factor of ``lse_and_factor``."""
    value, factor = lse_and_factor(sink, head, heads, maximum, denominator, HAS_SINK)
    tl.store(lse + token.to(tl.int64) * heads + head, value, mask=head < heads)
    return factor


@triton.jit
def _store_result(
    out, lse, sink, token, head, heads, out_heads, maximum, denominator, acc, HAS_SINK: tl.constexpr, D: tl.constexpr
):
    """Normalise and store one head tile; heads from ``heads`` to ``out_heads`` are written 0."""
    inverse = store_lse(lse, sink, token, head, heads, maximum, denominator, HAS_SINK)
    dims = tl.arange(0, D)
    target = out + (token.to(tl.int64) * out_heads + head)[:, None] * D + dims[None, :]
    tl.store(target, to_bf16(acc * inverse[:, None]), mask=(head < out_heads)[:, None])


@triton.jit(do_not_specialize=["width", "num_rows", "heads", "out_heads", "index_stride"])
def prefill_kernel(
    q, kv, indices, lens, sink, out, lse, scale_log2, width, index_stride, num_rows, heads, out_heads,
    HAS_SINK: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    head_blocks = tl.cdiv(out_heads, BLOCK_H)
    token = tl.program_id(0) // head_blocks
    head = (tl.program_id(0) % head_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    dims = tl.arange(0, D)
    safe_head = tl.minimum(head, heads - 1)
    q_tile = tl.load(q + (token.to(tl.int64) * heads + safe_head)[:, None] * D + dims[None, :])
    length = tl.minimum(tl.load(lens + token), width)
    maximum = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    denominator = tl.zeros((BLOCK_H,), tl.float32)
    acc = tl.zeros((BLOCK_H, D), tl.float32)
    row_indices = indices + token.to(tl.int64) * index_stride
    for first in tl.range(0, length, BLOCK_C, num_stages=STAGES):
        column = first + tl.arange(0, BLOCK_C)
        index = tl.load(row_indices + column, mask=column < length, other=-1)
        valid = (index >= 0) & (index < num_rows)
        row = tl.where(valid, index, 0).to(tl.int64)
        kv_tile = tl.load(kv + row[:, None] * D + dims[None, :], mask=valid[:, None], other=0.0)
        scores = dot(q_tile, tl.trans(kv_tile), tl.zeros((BLOCK_H, BLOCK_C), tl.float32)) * scale_log2
        weights, decay, maximum, denominator = softmax_step(scores, valid, maximum, denominator)
        acc = dot(weights, kv_tile, acc * decay[:, None])
    _store_result(out, lse, sink, token, head, heads, out_heads, maximum, denominator, acc, HAS_SINK, D)


@triton.jit
def _load_slots(
    cache, slots, first, length, num_slots, block_stride, SHIFT: tl.constexpr, BLOCK_C: tl.constexpr,
    DATA: tl.constexpr, SCALES: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """(codes uint8 ``[C, D / 64, 64]``, scale bytes ``[C, D / 64]``, rope BF16 ``[C, 64]``, valid ``[C]``) of candidates.

    The last 64 dimensions of the codes are 0: so they are one power-of-two tile with one scale for each 64.
    """
    column = first + tl.arange(0, BLOCK_C)
    slot = tl.load(slots + column, mask=column < length, other=-1)
    valid = (slot >= 0) & (slot < num_slots)
    slot = tl.where(valid, slot, 0)
    base = (slot >> SHIFT).to(tl.int64) * block_stride
    offset = slot & ((1 << SHIFT) - 1)
    data = cache + base + offset * DATA
    group = tl.arange(0, D // 64)
    position = group[None, :, None] * 64 + tl.arange(0, 64)[None, None, :]
    wanted = valid[:, None] & (group < (D - ROPE) // 64)[None, :]
    codes = tl.load(data[:, None, None] + position, mask=wanted[:, :, None], other=0)
    scale_row = cache + base + (DATA << SHIFT) + offset * SCALES
    scale = tl.load(scale_row[:, None] + group[None, :], mask=wanted, other=127)
    rope_data = (data + (D - ROPE)).to(tl.pointer_type(tl.bfloat16))
    rope = tl.load(rope_data[:, None] + tl.arange(0, ROPE)[None, :], mask=valid[:, None], other=0.0)
    return codes, scale, rope, valid


@triton.jit
def _load_tile(
    tile, swa_tiles, swa_cache, swa_slots, swa_len, swa_total, swa_stride, extra_cache, extra_slots, extra_len, extra_total,
    extra_stride, HAS_EXTRA: tl.constexpr, SWA_SHIFT: tl.constexpr, EXTRA_SHIFT: tl.constexpr, BLOCK_C: tl.constexpr,
    DATA: tl.constexpr, SCALES: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr,
):  # fmt: skip
    """Tile ``tile`` of the window's candidates followed by the compressed ones."""
    if not HAS_EXTRA or tile < swa_tiles:
        codes, scale, rope, valid = _load_slots(
            swa_cache,
            swa_slots,
            tile * BLOCK_C,
            swa_len,
            swa_total,
            swa_stride,
            SWA_SHIFT,
            BLOCK_C,
            DATA,
            SCALES,
            D,
            ROPE,
        )
    else:
        codes, scale, rope, valid = _load_slots(
            extra_cache, extra_slots, (tile - swa_tiles) * BLOCK_C, extra_len, extra_total, extra_stride, EXTRA_SHIFT,
            BLOCK_C, DATA, SCALES, D, ROPE,
        )  # fmt: skip
    return codes, scale, rope, valid


@triton.jit(
    do_not_specialize=[
        "swa_width",
        "extra_width",
        "swa_row",
        "extra_row",
        "heads",
        "out_heads",
        "splits",
        "swa_slots_total",
        "extra_slots_total",
    ]
)
def decode_kernel(
    q, swa_cache, swa_slots, swa_lens, extra_cache, extra_slots, extra_lens, sink, out, lse, part_acc, part_max, part_sum,
    scale_log2, swa_width, extra_width, swa_row, extra_row, swa_slots_total, extra_slots_total, swa_stride, extra_stride,
    heads, out_heads, splits,
    HAS_SINK: tl.constexpr, HAS_EXTRA: tl.constexpr, SPLIT: tl.constexpr, SWA_SHIFT: tl.constexpr, EXTRA_SHIFT: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, DATA: tl.constexpr,
    SCALES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait(PDL)
    head_blocks = tl.cdiv(out_heads, BLOCK_H)
    token = tl.program_id(1) // head_blocks
    split = tl.program_id(0)
    head = (tl.program_id(1) % head_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    dims = tl.arange(0, D)
    swa_len = tl.minimum(tl.load(swa_lens + token), swa_width)
    swa_tiles = tl.cdiv(tl.maximum(swa_len, 0), BLOCK_C)
    extra_len = 0
    extra_tiles = 0
    if HAS_EXTRA:
        extra_len = tl.minimum(tl.load(extra_lens + token), extra_width)
        extra_tiles = tl.cdiv(tl.maximum(extra_len, 0), BLOCK_C)
    # The tiles of this token are shared out evenly over the splits by its own lengths, known on the device alone.
    per_split = tl.cdiv(swa_tiles + extra_tiles, splits)
    begin = split * per_split
    end = tl.minimum(begin + per_split, swa_tiles + extra_tiles)
    maximum = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    denominator = tl.zeros((BLOCK_H,), tl.float32)
    acc = tl.zeros((BLOCK_H, D), tl.float32)
    acc_rope = tl.zeros((BLOCK_H, ROPE), tl.float32)
    is_nope = (dims < D - ROPE)[None, :]
    rope_dims = D - ROPE + tl.arange(0, ROPE)
    q_row = q + (token.to(tl.int64) * heads + tl.minimum(head, heads - 1))[:, None] * D
    q_nope = tl.load(q_row + dims[None, :], mask=is_nope, other=0.0)
    q_rope = tl.load(q_row + rope_dims[None, :])
    swa_row_slots = swa_slots + token.to(tl.int64) * swa_row
    extra_row_slots = extra_slots + token.to(tl.int64) * extra_row
    for tile in range(begin, end):
        codes, scale, rope, valid = _load_tile(
            tile, swa_tiles, swa_cache, swa_row_slots, swa_len, swa_slots_total, swa_stride, extra_cache, extra_row_slots,
            extra_len, extra_slots_total, extra_stride, HAS_EXTRA, SWA_SHIFT, EXTRA_SHIFT, BLOCK_C, DATA, SCALES, D, ROPE,
        )  # fmt: skip
        values = codes.to(tl.float8e4nv, bitcast=True).to(tl.float32) * pow2(scale.to(tl.int32))[:, :, None]
        nope = tl.reshape(to_bf16(values), (BLOCK_C, D))
        scores = dot(q_nope, tl.trans(nope), tl.zeros((BLOCK_H, BLOCK_C), tl.float32))
        scores = dot(q_rope, tl.trans(rope), scores) * scale_log2
        weights, decay, maximum, denominator = softmax_step(scores, valid, maximum, denominator)
        acc = dot(weights, nope, acc * decay[:, None])
        acc_rope = dot(weights, rope, acc_rope * decay[:, None])
    if SPLIT:
        row = (token.to(tl.int64) * splits + split) * out_heads + head
        stored = head < out_heads
        tl.store(part_max + row, maximum, mask=stored)
        tl.store(part_sum + row, denominator, mask=stored)
        if begin < end:
            tl.store(part_acc + row[:, None] * D + dims[None, :], acc, mask=stored[:, None] & is_nope)
            tl.store(part_acc + row[:, None] * D + rope_dims[None, :], acc_rope, mask=stored[:, None])
    else:
        inverse = store_lse(lse, sink, token, head, heads, maximum, denominator, HAS_SINK)
        target = out + (token.to(tl.int64) * out_heads + head)[:, None] * D
        stored = (head < out_heads)[:, None]
        tl.store(target + dims[None, :], to_bf16(acc * inverse[:, None]), mask=stored & is_nope)
        tl.store(target + rope_dims[None, :], to_bf16(acc_rope * inverse[:, None]), mask=stored)


@triton.jit(do_not_specialize=["heads", "out_heads", "splits"])
def merge_kernel(
    part_acc, part_max, part_sum, sink, out, lse, heads, out_heads, splits,
    HAS_SINK: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr, D: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait(PDL)
    token = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    dims = tl.arange(0, D)
    split = tl.arange(0, BLOCK_S)
    first = token.to(tl.int64) * splits * out_heads
    inside = (split < splits)[:, None] & (head < out_heads)[None, :]
    where = first + split[:, None] * out_heads + head[None, :]
    maxima = tl.load(part_max + where, mask=inside, other=float("-inf"))
    sums = tl.load(part_sum + where, mask=inside, other=0.0)
    maximum = tl.max(maxima, axis=0)
    guard = tl.where(maximum == float("-inf"), 0.0, maximum)
    denominator = tl.sum(sums * tl.exp2(maxima - guard[None, :]), axis=0)
    acc = tl.zeros((BLOCK_H, D), tl.float32)
    for index in range(splits):
        row = first + index * out_heads + head
        part_maximum = tl.load(part_max + row, mask=head < out_heads, other=float("-inf"))
        filled = part_maximum > float("-inf")  # an empty split stored no accumulator
        part = tl.load(part_acc + row[:, None] * D + dims[None, :], mask=filled[:, None], other=0.0)
        acc += part * tl.exp2(part_maximum - guard)[:, None]
    _store_result(out, lse, sink, token, head, heads, out_heads, maximum, denominator, acc, HAS_SINK, D)
