"""Sparse MLA decode for Hopper in two programs a token: each computes all scores and half of the output.

With one program of eight warps a token its phases wait for each other. Here the accumulator is half as large, so that
two programs of four warps share a multiprocessor and fill each other's waits. The keys are the B operand of both
products: one copy in shared memory, dequantised once; the weights stay in registers.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ds4_kernels.triton.attention_mma import lse_and_factor, softmax_step
from ds4_kernels.triton.common import INTERPRETED, dot, pow2, to_bf16
from ds4_kernels.triton.dependent import let_next_start, wait


@triton.jit
def _widen(words, scales, FIRST: tl.constexpr, GROUPS: tl.constexpr, BLOCK_C: tl.constexpr):
    """BF16 ``[C, GROUPS * 64]`` from e4m3 codes, four to a word ``[C, GROUPS, 16]``, and four scale bytes ``[C]``.

    The groups' scales begin at byte FIRST. Exact: products of powers of two.
    """
    byte = (scales[:, None] >> (8 * (FIRST + tl.arange(0, GROUPS)))[None, :]) & 0xFF
    if INTERPRETED:
        shift = (8 * tl.arange(0, 4))[None, None, None, :]
        codes = ((words[:, :, :, None] >> shift) & 0xFF).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
        keys = to_bf16(codes.to(tl.float32) * pow2(byte)[:, :, None, None])
    else:
        power = tl.broadcast_to((byte * 0x00800080)[:, :, None], (BLOCK_C, GROUPS, 16))  # 2^(byte - 127) twice, in BF16
        k0, k1, k2, k3 = tl.inline_asm_elementwise(
            """{
            .reg .b16 c0, c1, h0, h1, h2, h3;
            .reg .b32 p0, p1;
            .reg .f32 f0, f1, f2, f3;
            mov.b32 {c0, c1}, $4;
            cvt.rn.f16x2.e4m3x2 p0, c0;
            cvt.rn.f16x2.e4m3x2 p1, c1;
            mov.b32 {h0, h1}, p0;
            mov.b32 {h2, h3}, p1;
            cvt.f32.f16 f0, h0;
            cvt.f32.f16 f1, h1;
            cvt.f32.f16 f2, h2;
            cvt.f32.f16 f3, h3;
            cvt.rn.bf16x2.f32 p0, f1, f0;
            cvt.rn.bf16x2.f32 p1, f3, f2;
            mul.rn.bf16x2 p0, p0, $5;
            mul.rn.bf16x2 p1, p1, $5;
            mov.b32 {$0, $1}, p0;
            mov.b32 {$2, $3}, p1;
            }""",
            "=h,=h,=h,=h,r,r", [words, power], dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True,
            pack=1,
        )  # fmt: skip
        keys = tl.join(tl.join(k0, k2), tl.join(k1, k3))
    return tl.reshape(keys, (BLOCK_C, GROUPS * 64))


@triton.jit
def _load_words(row, valid, FIRST: tl.constexpr, GROUPS: tl.constexpr):
    position = (FIRST + tl.arange(0, GROUPS))[None, :, None] * 16 + tl.arange(0, 16)[None, None, :]
    return tl.load(row[:, None, None] + position, mask=valid[:, None, None], other=0)


@triton.jit
def _load_slots(
    tile, end, swa_tiles, swa_slots, swa_len, extra_slots, extra_len, HAS_EXTRA: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Slots ``[C]`` of a tile, by one load for both lists; -1 past the lists and from tile ``end`` on."""
    first = tile
    length = swa_len
    jump = tl.full((), 0, tl.int64)
    if HAS_EXTRA:
        compressed = tile >= swa_tiles
        first = tl.where(compressed, tile - swa_tiles, tile)
        length = tl.where(compressed, extra_len, swa_len)
        jump = tl.where(compressed, (extra_slots.to(tl.int64) - swa_slots.to(tl.int64)) // 4, 0)
    column = first * BLOCK_C + tl.arange(0, BLOCK_C)
    return tl.load(swa_slots + jump + column, mask=column < tl.where(tile < end, length, 0), other=-1)


@triton.jit
def _place(
    slot, compressed, swa_cache, extra_cache, swa_total, extra_total, swa_stride, extra_stride,
    HAS_EXTRA: tl.constexpr, SWA_SHIFT: tl.constexpr, EXTRA_SHIFT: tl.constexpr, DATA: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    """(where the keys of slots ``[C]`` begin, where their scales do, both in bytes after ``swa_cache``; valid)."""
    total = swa_total
    shift = SWA_SHIFT
    stride = swa_stride
    jump = tl.full((), 0, tl.int64)
    if HAS_EXTRA:
        total = tl.where(compressed, extra_total, swa_total)
        shift = tl.where(compressed, EXTRA_SHIFT, SWA_SHIFT)
        stride = tl.where(compressed, extra_stride, swa_stride)
        jump = tl.where(compressed, extra_cache.to(tl.int64) - swa_cache.to(tl.int64), 0)
    valid = (slot >= 0) & (slot < total)
    slot = tl.where(valid, slot, 0)
    block = (slot >> shift).to(tl.int64) * stride + jump
    offset = slot & ((1 << shift) - 1)
    # Said where it is computed: of a value that a step hands to the next, or a function gets, Triton would not know it.
    row = tl.multiple_of(block + offset * DATA, 16)
    scales = tl.multiple_of(block + (DATA << shift) + offset * SCALES, 8)
    return row, scales, valid


@triton.jit
def _row(swa_cache, at):
    return (swa_cache + at).to(tl.pointer_type(tl.int32))


@triton.jit
def _fetch(at, scales_at, valid, mine, swa_cache):
    """A tile's keys: the first three groups of either half (the program's own first), rope, scales.

    Codes and scales are words of 4 bytes: bytes that live across a loop take a register each.
    """
    other = 4 - mine
    row = _row(swa_cache, at)
    scales = (swa_cache + scales_at).to(tl.pointer_type(tl.int32))
    rope = (row + 112).to(tl.pointer_type(tl.bfloat16))[:, None] + tl.arange(0, 64)[None, :]
    return (
        _load_words(row + mine * 16, valid, 0, 2), _load_words(row + mine * 16, valid, 2, 1),
        _load_words(row + other * 16, valid, 0, 2), _load_words(row + other * 16, valid, 2, 1),
        tl.load(rope, mask=valid[:, None], other=0.0),
        tl.load(scales + mine // 4, mask=valid, other=0), tl.load(scales + other // 4, mask=valid, other=0),
    )  # fmt: skip


@triton.jit
def _store_half(target, a0, a1, a2, factor, stored):
    """Store the 256 dimensions from ``target`` on times ``factor [H, 1]`` in the target's type."""
    narrow = tl.arange(0, 64)[None, :]
    a0 *= factor
    a1 *= factor
    a2 *= factor
    if target.dtype.element_ty == tl.bfloat16:
        a0, a1, a2 = to_bf16(a0), to_bf16(a1), to_bf16(a2)
    tl.store(target + tl.arange(0, 128)[None, :], a0, mask=stored)
    tl.store(target + 128 + narrow, a1, mask=stored)
    tl.store(target + 192 + narrow, a2, mask=stored)


@triton.jit(do_not_specialize=["swa_width", "extra_width", "swa_row", "extra_row", "heads", "out_heads", "splits",
                               "swa_slots_total", "extra_slots_total"])  # fmt: skip
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
    split = tl.program_id(0) // 2
    head = (tl.program_id(1) % head_blocks) * BLOCK_H + tl.arange(0, BLOCK_H)
    swa_len = tl.minimum(tl.load(swa_lens + token), swa_width)
    swa_tiles = tl.cdiv(tl.maximum(swa_len, 0), BLOCK_C)
    extra_len = 0
    extra_tiles = 0
    if HAS_EXTRA:
        extra_len = tl.minimum(tl.load(extra_lens + token), extra_width)
        extra_tiles = tl.cdiv(tl.maximum(extra_len, 0), BLOCK_C)
    per_split = tl.cdiv(swa_tiles + extra_tiles, splits)
    begin = split * per_split
    end = tl.minimum(begin + per_split, swa_tiles + extra_tiles)
    swa_slots += token.to(tl.int64) * swa_row
    extra_slots += token.to(tl.int64) * extra_row
    low = tl.program_id(0) % 2 == 0
    mine = tl.where(low, 0, 4)  # first of the four groups of 64 dimensions that this program writes; the last is rope
    other = 4 - mine
    row = q + (token.to(tl.int64) * heads + tl.minimum(head, heads - 1))[:, None] * D
    narrow = tl.arange(0, 64)[None, :]
    q0 = tl.load(row + mine * 64 + tl.arange(0, 128)[None, :])
    q1 = tl.load(row + mine * 64 + 128 + narrow)
    q2 = tl.load(row + other * 64 + tl.arange(0, 128)[None, :])
    q3 = tl.load(row + other * 64 + 128 + narrow)
    q4 = tl.load(row + 192 + narrow)
    q5 = tl.load(row + 448 + narrow)
    maximum = tl.full((BLOCK_H,), float("-inf"), tl.float32)
    denominator = tl.zeros((BLOCK_H,), tl.float32)
    a0 = tl.zeros((BLOCK_H, 128), tl.float32)
    a1 = tl.zeros((BLOCK_H, 64), tl.float32)
    a2 = tl.zeros((BLOCK_H, 64), tl.float32)
    slot = _load_slots(begin, end, swa_tiles, swa_slots, swa_len, extra_slots, extra_len, HAS_EXTRA, BLOCK_C)
    if not SPLIT:
        at, scales_at, valid = _place(
            slot, begin >= swa_tiles, swa_cache, extra_cache, swa_slots_total, extra_slots_total, swa_stride, extra_stride,
            HAS_EXTRA, SWA_SHIFT, EXTRA_SHIFT, DATA, SCALES,
        )  # fmt: skip
        w4 = _load_words(_row(swa_cache, at), valid, 3, 1)
        slot = _load_slots(begin + 1, end, swa_tiles, swa_slots, swa_len, extra_slots, extra_len, HAS_EXTRA, BLOCK_C)
    # Two stages fetch a tile's keys by cp.async while the one before it is worked on, all but group 3: with it two programs
    # would not fit a multiprocessor's shared memory, so it waits in registers. Over few tiles that costs more than it hides.
    for tile in tl.range(begin, end, num_stages=1 if SPLIT else 2):
        if SPLIT:
            at, scales_at, valid = _place(
                slot, tile >= swa_tiles, swa_cache, extra_cache, swa_slots_total, extra_slots_total, swa_stride,
                extra_stride, HAS_EXTRA, SWA_SHIFT, EXTRA_SHIFT, DATA, SCALES,
            )  # fmt: skip
            w4 = _load_words(_row(swa_cache, at), valid, 3, 1)
        w0, w1, w2, w3, k5, s0, s1 = _fetch(at, scales_at, valid, mine, swa_cache)
        live = valid
        if not SPLIT:
            at, scales_at, valid = _place(
                slot, tile + 1 >= swa_tiles, swa_cache, extra_cache, swa_slots_total, extra_slots_total, swa_stride,
                extra_stride, HAS_EXTRA, SWA_SHIFT, EXTRA_SHIFT, DATA, SCALES,
            )  # fmt: skip
        coming = tile + (1 if SPLIT else 2)
        slot = _load_slots(coming, end, swa_tiles, swa_slots, swa_len, extra_slots, extra_len, HAS_EXTRA, BLOCK_C)
        # The order of these and of the products is the fastest of forty on an H200, by up to 25 % (docs/speed.md).
        k2 = _widen(w2, s1, 0, 2, BLOCK_C)
        k0 = _widen(w0, s0, 0, 2, BLOCK_C)
        k1 = _widen(w1, s0, 2, 1, BLOCK_C)
        k3 = _widen(w3, s1, 2, 1, BLOCK_C)
        k4 = _widen(w4, tl.where(low, s0, s1), 3, 1, BLOCK_C)
        scores = dot(q5, tl.trans(k5), tl.zeros((BLOCK_H, BLOCK_C), tl.float32))
        scores = dot(q0, tl.trans(k0), scores)
        scores = dot(q1, tl.trans(k1), scores)
        scores = dot(q4, tl.trans(k4), scores)
        scores = dot(q2, tl.trans(k2), scores)
        scores = dot(q3, tl.trans(k3), scores)
        weights, decay, maximum, denominator = softmax_step(scores * scale_log2, live, maximum, denominator)
        if not SPLIT:
            w4 = _load_words(_row(swa_cache, at), valid, 3, 1)
        a0 = dot(weights, k0, a0 * decay[:, None])
        a1 = dot(weights, k1, a1 * decay[:, None])
        a2 *= decay[:, None]
        a2 = dot(weights, k4, a2) if low else dot(weights, k5, a2)
    if not SPLIT:  # before its last stores only: until then it needs its multiprocessor for itself
        let_next_start(PDL)
    stored = (head < out_heads)[:, None]
    if SPLIT:
        row = (token.to(tl.int64) * splits + split) * out_heads + head
        if low:
            tl.store(part_max + row, maximum, mask=head < out_heads)
            tl.store(part_sum + row, denominator, mask=head < out_heads)
        if begin < end:
            one = tl.full((BLOCK_H, 1), 1.0, tl.float32)
            _store_half(part_acc + row[:, None] * D + mine * 64, a0, a1, a2, one, stored)
    else:  # the other half adds its scores up in another order: its lse differs in the last bit
        value, factor = lse_and_factor(sink, head, heads, maximum, denominator, HAS_SINK)
        if low:
            tl.store(lse + token.to(tl.int64) * heads + head, value, mask=head < heads)
        target = out + (token.to(tl.int64) * out_heads + head)[:, None] * D + mine * 64
        _store_half(target, a0, a1, a2, factor[:, None], stored)
