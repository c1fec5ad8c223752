"""The projection of the MXFP4 decode path: one warp, a few rows of one expert, at most eight (token, slot) pairs.

Weights go from memory to registers, past shared memory. A lane reads 16 bytes of a row: 32 codes that share one scale.
Four lanes read 64 contiguous bytes (a *unit*, 128 elements of k), eight such rows are one load of a warp. Which k an MMA
calls its first is free as long as both operands agree, so these 32 codes are the lane's own operands of eight MMAs and
no lane needs another's. Activations are stored in that order (``fragment_order``). The weight rows are the rows of the
MMA (16) and the pairs its columns (8); with one warp a program nothing is waited for but memory.

Operands are built for one unit at a time: Triton 3.6 moves data between lanes if a tensor spans two.

``EPILOGUE``: sums of parts of k are stored apart. Either the next kernel adds them, or the last program to arrive at a
counter does, in a fixed order, so that results do not depend on which program that is.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ds4_kernels.triton.common import INTERPRETED, dot, pow2, to_bf16
from ds4_kernels.triton.dependent import let_next_start, wait
from ds4_kernels.triton.mxfp4_values import (
    FACTOR_BIAS,
    FACTOR_MAX,
    GROUP,
    OPERAND_SCALE,
    nibble_plane,
    rounded,
    swiglu,
)

COLUMNS = tl.constexpr(8)
"""Pairs of a program: the fewest columns of an MMA."""
PLAN_WIDTH = tl.constexpr(16)
"""int32 of a plan's row: pairs of the block (0: no block starts here), seven unused, the pairs."""
NO_EPILOGUE, ACTIVATION, COMBINE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)

# $0 .. $3: the BF16 pairs of the four nibbles of the two words in $4; $5: their BF16 factors. The upper two nibbles
# take the lower two's way after one shift. ALU operations limit: see mxfp4_values.
_UNPACK = tl.constexpr(
    """{ .reg .b32 t, h;
    shr.u32 h, $4, 8;
    and.b32 t, $4, 0x000F000F;
    mul.lo.u32 t, t, 0x1040;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $0, t, $5;
    and.b32 t, $4, 0x00F000F0;
    mul.lo.u32 t, t, 0x104;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $1, t, $5;
    and.b32 t, h, 0x000F000F;
    mul.lo.u32 t, t, 0x1040;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $2, t, $5;
    and.b32 t, h, 0x00F000F0;
    mul.lo.u32 t, t, 0x104;
    and.b32 t, t, 0x81C081C0;
    mul.rn.bf16x2 $3, t, $5; }"""
)


@triton.jit
def fragment_order():
    """The 128 offsets inside a unit in the order in which activations are stored: lane, nibble, pair of words, word."""
    at = tl.arange(0, GROUP)
    return at // 32 * 32 + at % 8 // 2 * 8 + at % 2 * 4 + at % 32 // 8


@triton.jit(do_not_specialize=["pairs"])
def _rows_kernel(
    x, w, s, ids, plan, parts, weights, result, counters, pairs, limit,
    ROWS: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, TOPK: tl.constexpr, EXPERTS: tl.constexpr,
    FP8: tl.constexpr, MERGE: tl.constexpr, SPLITS: tl.constexpr, EPILOGUE: tl.constexpr,
    BLOCK_M: tl.constexpr, UNROLL: tl.constexpr, AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """parts FP32 ``[SPLITS, pairs, ROWS]`` from x ``[pairs / SLOTS, K]`` and one expert's ``[ROWS, K]`` a pair.

    MERGE: plan int32 ``[pairs, PLAN_WIDTH]`` says which pairs share an expert; else every pair is alone. ACTIVATION
    makes result BF16 ``[pairs, ROWS / 2]`` (hidden), COMBINE result BF16 ``[pairs / TOPK, ROWS]``; both need counters
    int32, zero before, one a group of 128 hidden columns of a pair or one a tile of a token.
    """
    let_next_start(PDL)
    if MERGE or not AHEAD:
        wait(PDL)
    tiles: tl.constexpr = ROWS // BLOCK_M
    split = tl.program_id(0) % SPLITS
    tile = tl.program_id(0) // SPLITS % tiles
    pair = tl.program_id(0) // (tiles * SPLITS)
    expert = tl.load(ids + pair)
    here = (expert >= 0) & (expert < EXPERTS)
    if EPILOGUE == COMBINE:
        if here:
            _tile(
                x, w, s, plan, parts, expert, split, tile * BLOCK_M, pair, pairs,
                ROWS, K, SLOTS, MERGE, SPLITS, BLOCK_M, UNROLL, AHEAD, PDL,
            )  # fmt: skip
        wait(PDL)
        token = pair // TOPK
        if _is_last(counters + token * tiles + tile, TOPK * SPLITS):
            _combine(parts, ids, result, token, tile, pairs, ROWS, TOPK, EXPERTS, SPLITS, BLOCK_M)
    elif here:
        row = tile * BLOCK_M
        if EPILOGUE == ACTIVATION:  # the tiles of one group of hidden columns, gate and up, run side by side
            group = tile // (2 * GROUP // BLOCK_M)
            offset = tile % (2 * GROUP // BLOCK_M) * BLOCK_M
            row = offset // GROUP * (ROWS // 2) + group * GROUP + offset % GROUP
        _tile(
            x, w, s, plan, parts, expert, split, row, pair, pairs,
            ROWS, K, SLOTS, MERGE, SPLITS, BLOCK_M, UNROLL, AHEAD, PDL,
        )  # fmt: skip
        if EPILOGUE == ACTIVATION:
            counter = counters + pair * (ROWS // (2 * GROUP)) + group
            if _is_last(counter, 2 * GROUP // BLOCK_M * SPLITS):
                _activate(parts, weights, result, limit, pair, group, pairs, ROWS // 2, FP8, SPLITS)
    else:
        wait(PDL)


@triton.jit
def _tile(
    x, w, s, plan, parts, expert, split, first_row, pair, pairs,
    ROWS: tl.constexpr, K: tl.constexpr, SLOTS: tl.constexpr, MERGE: tl.constexpr, SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr, UNROLL: tl.constexpr, AHEAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BLOCK_M rows from ``first_row`` times the part ``split`` of k, for the pair or for the pairs of its plan."""
    column = tl.arange(0, COLUMNS)
    row = first_row + tl.arange(0, BLOCK_M)
    lane = tl.arange(0, 32)
    units: tl.constexpr = K // GROUP // SPLITS
    w_at = (
        w + expert.to(tl.int64) * (ROWS * (K // 4)) + (row * (K // 4))[:, None] + lane[None, :] + split * (units * 32)
    )
    s_at = s + expert.to(tl.int64) * (ROWS * (K // GROUP)) + row * (K // GROUP) + split * units
    if MERGE:
        count = tl.load(plan + pair * PLAN_WIDTH)
        member = tl.load(plan + pair * PLAN_WIDTH + 8 + column)
    else:  # all columns compute the same, one is stored
        count = 1
        member = pair + 0 * column
    if count > 0:
        x_at = x + (member // SLOTS).to(tl.int64)[:, None] * K + split * (units * GROUP)
        x_at += (lane // 8 * 32 + lane % 8)[None, :]
        acc = tl.zeros((BLOCK_M, COLUMNS), tl.float32)
        if AHEAD:
            words, scales = _fetch(w_at, s_at, 0, UNROLL)
            wait(PDL)  # weights and ids are older than the kernel before
            for unit in tl.range(UNROLL, units, UNROLL, num_stages=1):
                next_words, next_scales = _fetch(w_at, s_at, unit, UNROLL)
                acc = _accumulate(acc, words, scales, x_at, unit - UNROLL, BLOCK_M, UNROLL)
                words = next_words
                scales = next_scales
            acc = _accumulate(acc, words, scales, x_at, units - UNROLL, BLOCK_M, UNROLL)
        else:
            for unit in tl.range(0, units, UNROLL, num_stages=1):
                words, scales = _fetch(w_at, s_at, unit, UNROLL)
                acc = _accumulate(acc, words, scales, x_at, unit, BLOCK_M, UNROLL)
        at = (split * pairs + member).to(tl.int64)[:, None] * ROWS + row[None, :]
        tl.store(parts + at, tl.trans(acc * OPERAND_SCALE), mask=(column < count)[:, None])


@triton.jit
def _fetch(w_at, s_at, unit, UNROLL: tl.constexpr):
    """(words int16 ``[M, 32]``, scales int32 ``[M]``: four E8M0 bytes) of UNROLL units."""  # no starred tuples in Triton
    words = ()
    scales = ()
    for u in tl.static_range(UNROLL):
        words = words + (tl.load(w_at + (unit + u) * 32, eviction_policy="evict_first"),)  # type: ignore[assignment]  # noqa: RUF005
        scales = scales + (tl.load(s_at + (unit + u)),)  # type: ignore[assignment]  # noqa: RUF005
    return words, scales


@triton.jit
def _accumulate(acc, words, scales, x_at, unit, M: tl.constexpr, UNROLL: tl.constexpr):
    for u in tl.static_range(UNROLL):
        planes = _unpacked(words[u], _factors(scales[u], M))
        for p in tl.static_range(4):
            tile = tl.load(x_at + ((unit + u) * GROUP + p * 8))
            acc = dot(_operand(planes[p], M), tl.trans(_operand(tile, COLUMNS)), acc)
    return acc


@triton.jit
def _factors(scales, M: tl.constexpr):
    """The multipliers of the words ``[M, 32]`` from int32 ``[M]``; eight words share a scale."""
    byte = (scales[:, None] >> (8 * tl.arange(0, 4))[None, :]) & 0xFF
    exponent = tl.minimum(byte + FACTOR_BIAS, FACTOR_MAX)
    narrow = pow2(exponent) if INTERPRETED else (exponent << 7).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return tl.reshape(tl.broadcast_to(narrow[:, :, None], (M, 4, 8)), (M, 32))


@triton.jit
def _unpacked(words, factor):
    """The four nibbles of the words as BF16 ``[M, 32]``, times 2^-32."""
    if INTERPRETED:
        return (
            nibble_plane(words, factor, 0), nibble_plane(words, factor, 1),
            nibble_plane(words, factor, 2), nibble_plane(words, factor, 3),
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            _UNPACK, "=&r,=&r,=&r,=&r,r,r", [words, factor],
            dtype=(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def _operand(tile, M: tl.constexpr):
    """``[M, 32]`` as a lane holds it (lane, pair of words, word) to the order of k in the MMA (pair, lane, word)."""
    return tl.reshape(tl.permute(tl.reshape(tile, (M, 4, 4, 2)), (0, 2, 1, 3)), (M, 32))


@triton.jit
def _is_last(counter, expected):
    """Whether ``expected - 1`` programs came here before; what they stored is then visible (scope: the GPU)."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == expected - 1


@triton.jit
def _activate(
    parts, weights, hidden, limit, pair, group, pairs, INTER: tl.constexpr, FP8: tl.constexpr, SPLITS: tl.constexpr
):
    """128 columns of a pair's hidden from its gate and up, FP32 ``[SPLITS, pairs, 2 INTER]``."""
    column = group * GROUP + fragment_order()
    gate = tl.zeros((GROUP,), tl.float32)
    up = tl.zeros((GROUP,), tl.float32)
    for split in tl.static_range(SPLITS):
        at = (split * pairs + pair).to(tl.int64) * (2 * INTER) + column
        gate += tl.load(parts + at, cache_modifier=".cg")
        up += tl.load(parts + at + INTER, cache_modifier=".cg")
    result = rounded((swiglu(gate, up, limit) * tl.load(weights + pair))[None, :], FP8)
    at = pair.to(tl.int64) * INTER + group * GROUP + tl.arange(0, GROUP)
    tl.store(hidden + at[None, :], result)


@triton.jit
def _combine(
    parts, ids, out, token, tile, pairs,
    ROWS: tl.constexpr, TOPK: tl.constexpr, EXPERTS: tl.constexpr, SPLITS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """BLOCK_M columns of a token's output; rows of parts whose id is no expert were never written."""
    column = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for split in tl.static_range(SPLITS):
        for slot in tl.static_range(TOPK):
            pair = token * TOPK + slot
            expert = tl.load(ids + pair)
            at = (split * pairs + pair).to(tl.int64) * ROWS + column
            value = tl.load(parts + at, cache_modifier=".cg")
            width = tl.where((expert >= 0) & (expert < EXPERTS), ROWS, 0)
            total += tl.where(column < width, value, 0.0)
    tl.store(out + token.to(tl.int64) * ROWS + column, to_bf16(total))
