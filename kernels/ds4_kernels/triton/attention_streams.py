"""The device code of ``attention_state``: softmax states on CUDA cores, for any number of heads.

A program takes HEAD_BLOCK heads of one token and keeps GROUPS running softmaxes: group g takes the candidates g,
g + GROUPS, ... Groups lie in different warps, so the loop has no sum across them; they are merged once, at the end. A key
is 8 groups of 64 numbers, because an ``fp8_ds_mla`` slot has one E8M0 scale for each of the first 7 groups and BF16 in
the last.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ds4_kernels.triton.attention_finish import normalise
from ds4_kernels.triton.common import pow2, to_bf16


@triton.jit
def _start(q, token, head, heads, HEAD_BLOCK: tl.constexpr, GROUPS: tl.constexpr):
    """(query FP32 ``[HEAD_BLOCK, 1, 8, 64]``, empty maximum, denominator ``[HEAD_BLOCK, GROUPS]``, accumulator)."""
    group = tl.arange(0, 8)[None, None, :, None]
    lane = tl.arange(0, 64)[None, None, None, :]
    row = token * heads + tl.minimum(head, heads - 1)
    query = tl.load(q + row[:, None, None, None] * 512 + group * 64 + lane).to(tl.float32)
    maximum = tl.full((HEAD_BLOCK, GROUPS), float("-inf"), tl.float32)
    denominator = tl.zeros((HEAD_BLOCK, GROUPS), tl.float32)
    return query, maximum, denominator, tl.zeros((HEAD_BLOCK, GROUPS, 8, 64), tl.float32)


@triton.jit
def _fold(query, keys, valid, scale, maximum, denominator, acc):
    """Add one candidate to each group: keys FP32 ``[1, GROUPS, 8, 64]`` (0 where not ``valid`` ``[GROUPS]``)."""
    scores = tl.sum(tl.sum(query * keys, axis=3), axis=2) * scale
    scores = tl.where(valid[None, :], scores, float("-inf"))
    highest = tl.maximum(maximum, scores)
    guard = tl.where(highest == float("-inf"), 0.0, highest)  # -inf - -inf would be NaN
    decay = tl.exp(maximum - guard)
    weight = tl.exp(scores - guard)
    acc = acc * decay[:, :, None, None] + weight[:, :, None, None] * keys
    return highest, denominator * decay + weight, acc


@triton.jit
def _load_rows(kv, row, valid):
    """BF16 rows at int64 element offsets ``row`` ``[GROUPS]`` as FP32 ``[1, GROUPS, 8, 64]``."""
    inside = tl.arange(0, 8)[None, None, :, None] * 64 + tl.arange(0, 64)[None, None, None, :]
    keys = tl.load(kv + row[None, :, None, None] + inside, mask=valid[None, :, None, None], other=0.0)
    return keys.to(tl.float32)


@triton.jit
def _load_slots(cache, half_stride, shift, block, offset, valid, DATA: tl.constexpr, SCALES: tl.constexpr):
    """Dequantise slots ``offset`` of ``block`` (both ``[GROUPS]``): FP32 ``[1, GROUPS, 8, 64]``.

    The block stride comes in units of 2 bytes, so that the BF16 part is addressed as such with known alignment.
    """
    group = tl.arange(0, 8)[None, None, :, None]
    lane = tl.arange(0, 64)[None, None, None, :]
    wanted = valid[None, :, None, None]
    plane = block.to(tl.int64) * half_stride
    row = (plane + offset * (DATA // 2))[None, :, None, None]
    codes = tl.load(cache + row * 2 + group * 64 + lane, mask=wanted & (group < 7), other=0)
    halves = cache.to(tl.pointer_type(tl.bfloat16))
    rope = tl.load(halves + row + (448 // 2) + lane + group * 0, mask=wanted & (group == 7), other=0.0)
    scale_group = tl.arange(0, 8)[None, None, :]
    scale_row = (plane * 2 + (DATA << shift) + offset * SCALES)[None, :, None]
    byte = tl.load(cache + scale_row + scale_group, mask=valid[None, :, None] & (scale_group < 7), other=127)
    nope = codes.to(tl.float8e4nv, bitcast=True).to(tl.float32) * pow2(byte.to(tl.int32))[:, :, :, None]
    return tl.where(group < 7, nope, rope.to(tl.float32))


@triton.jit
def _slots_loop(
    query, cache, half_stride, shift, num_blocks, ids, length, scale, maximum, denominator, acc,
    GROUPS: tl.constexpr, STAGES: tl.constexpr, DATA: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    for first in tl.range(0, length, GROUPS, num_stages=STAGES):
        column = first + tl.arange(0, GROUPS)
        slot = tl.load(ids + column, mask=column < length, other=-1)
        valid = (slot >= 0) & ((slot >> shift) < num_blocks)
        slot = tl.where(valid, slot, 0)
        keys = _load_slots(cache, half_stride, shift, slot >> shift, slot & ((1 << shift) - 1), valid, DATA, SCALES)
        maximum, denominator, acc = _fold(query, keys, valid, scale, maximum, denominator, acc)
    return maximum, denominator, acc


@triton.jit
def _paged_span(seq_lens, gather_lens, token, next_n, per_token, table_width, shift):
    """(position of candidate 0, first and end of the candidates that stand at positions 0 .. end of the table)."""
    at = tl.where(per_token != 0, token, token // next_n)
    back = tl.where(per_token != 0, 0, next_n - 1 - (token % next_n).to(tl.int32))
    gather = tl.load(gather_lens + at)
    base = tl.load(seq_lens + at) - back - gather
    return base, tl.maximum(-base, 0), tl.minimum(gather, (table_width << shift) - base)


@triton.jit
def _paged_loop(
    query, cache, half_stride, shift, num_blocks, table_row, base, begin, end, scale, maximum, denominator, acc,
    GROUPS: tl.constexpr, STAGES: tl.constexpr, DATA: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    for first in tl.range(begin, end, GROUPS, num_stages=STAGES):
        column = first + tl.arange(0, GROUPS)
        position = tl.where(column < end, base + column, 0)
        block = tl.load(table_row + (position >> shift), mask=column < end, other=-1)
        valid = (block >= 0) & (block < num_blocks)
        block = tl.where(valid, block, 0)
        offset = position & ((1 << shift) - 1)
        keys = _load_slots(cache, half_stride, shift, block, offset, valid, DATA, SCALES)
        maximum, denominator, acc = _fold(query, keys, valid, scale, maximum, denominator, acc)
    return maximum, denominator, acc


@triton.jit
def _collapse(maximum, denominator, acc):
    """Merge the groups: (maximum ``[HEAD_BLOCK]``, denominator ``[HEAD_BLOCK]``, accumulator ``[HEAD_BLOCK, 8, 64]``)."""
    highest = tl.max(maximum, axis=1)
    guard = tl.where(highest == float("-inf"), 0.0, highest)
    factor = tl.exp(maximum - guard[:, None])
    return highest, tl.sum(denominator * factor, axis=1), tl.sum(acc * factor[:, :, None, None], axis=1)


@triton.jit
def _update(state_max, state_sum, state_acc, token, head, heads, maximum, denominator, acc):
    """Merge groups into the state in memory."""
    added_max, added_sum, added_acc = _collapse(maximum, denominator, acc)
    real = head < heads
    at = token * heads + tl.minimum(head, heads - 1)
    where = at[:, None, None] * 512 + tl.arange(0, 8)[None, :, None] * 64 + tl.arange(0, 64)[None, None, :]
    old_max = tl.load(state_max + at)
    old_sum = tl.load(state_sum + at)
    old_acc = tl.load(state_acc + where)
    tl.debug_barrier()  # threads that hold copies of a number must have read it before one of them writes it
    highest = tl.maximum(old_max, added_max)
    guard = tl.where(highest == float("-inf"), 0.0, highest)
    before = tl.exp(old_max - guard)
    added = tl.exp(added_max - guard)
    tl.store(state_max + at, highest, mask=real)
    tl.store(state_sum + at, old_sum * before + added_sum * added, mask=real)
    total = old_acc * before[:, None, None] + added_acc * added[:, None, None]
    tl.store(state_acc + where, total, mask=real[:, None, None])


@triton.jit(do_not_specialize=["width", "num_rows", "id_stride", "heads", "head_blocks"])
def rows_kernel(
    q, kv, ids, lens, state_max, state_sum, state_acc, scale, token_stride, row_stride, width, num_rows, id_stride,
    heads, head_blocks,
    GATHERED: tl.constexpr, HAS_IDS: tl.constexpr, HEAD_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """GATHERED: candidate i is row i of the token's own rows, an id only says whether it counts. Else row ``ids[i]``."""
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    length = tl.minimum(tl.load(lens + token), width)
    if length > 0:
        query, maximum, denominator, acc = _start(q, token, head, heads, HEAD_BLOCK, GROUPS)
        for first in tl.range(0, length, GROUPS, num_stages=STAGES):
            column = first + tl.arange(0, GROUPS)
            valid = column < length
            row = tl.where(valid, column, 0)
            if HAS_IDS:
                index = tl.load(ids + token * id_stride + column, mask=valid, other=-1)
                valid = index >= 0
                if not GATHERED:
                    valid = valid & (index < num_rows)
                    row = tl.where(valid, index, 0)
            offset = token * token_stride + row.to(tl.int64) * row_stride
            keys = _load_rows(kv, offset, valid)
            maximum, denominator, acc = _fold(query, keys, valid, scale, maximum, denominator, acc)
        _update(state_max, state_sum, state_acc, token, head, heads, maximum, denominator, acc)


@triton.jit(do_not_specialize=["shift", "num_blocks", "width", "id_stride", "heads", "head_blocks"])
def slots_kernel(
    q, cache, ids, lens, state_max, state_sum, state_acc, scale, half_stride, shift, num_blocks, width, id_stride, heads,
    head_blocks,
    HEAD_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr, DATA: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    length = tl.minimum(tl.load(lens + token), width)
    if length > 0:
        query, maximum, denominator, acc = _start(q, token, head, heads, HEAD_BLOCK, GROUPS)
        maximum, denominator, acc = _slots_loop(
            query, cache, half_stride, shift, num_blocks, ids + token * id_stride, length, scale, maximum, denominator,
            acc, GROUPS, STAGES, DATA, SCALES,
        )  # fmt: skip
        _update(state_max, state_sum, state_acc, token, head, heads, maximum, denominator, acc)


@triton.jit(
    do_not_specialize=[
        "shift", "num_blocks", "table_stride", "table_width", "next_n", "per_token", "heads", "head_blocks",
    ]
)  # fmt: skip
def paged_kernel(
    q, cache, seq_lens, gather_lens, table, state_max, state_sum, state_acc, scale, half_stride, shift, num_blocks,
    table_stride, table_width, next_n, per_token, heads, head_blocks,
    HEAD_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr, DATA: tl.constexpr, SCALES: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    base, begin, end = _paged_span(seq_lens, gather_lens, token, next_n, per_token, table_width, shift)
    if begin < end:
        query, maximum, denominator, acc = _start(q, token, head, heads, HEAD_BLOCK, GROUPS)
        maximum, denominator, acc = _paged_loop(
            query, cache, half_stride, shift, num_blocks, table + token // next_n * table_stride, base, begin, end, scale,
            maximum, denominator, acc, GROUPS, STAGES, DATA, SCALES,
        )  # fmt: skip
        _update(state_max, state_sum, state_acc, token, head, heads, maximum, denominator, acc)


@triton.jit(
    do_not_specialize=[
        "swa_shift", "swa_blocks", "table_stride", "table_width", "next_n", "per_token", "shift", "num_blocks",
        "width", "id_stride", "heads", "head_blocks",
    ]
)  # fmt: skip
def fused_kernel(
    q, swa_cache, seq_lens, gather_lens, table, cache, ids, lens, sink, out, lse, scale, swa_half_stride, swa_shift,
    swa_blocks, table_stride, table_width, next_n, per_token, half_stride, shift, num_blocks, width, id_stride, heads,
    head_blocks,
    HAS_SINK: tl.constexpr, HEAD_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr, DATA: tl.constexpr,
    SCALES: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) // head_blocks).to(tl.int64)
    head = (tl.program_id(0) % head_blocks) * HEAD_BLOCK + tl.arange(0, HEAD_BLOCK)
    query, maximum, denominator, acc = _start(q, token, head, heads, HEAD_BLOCK, GROUPS)
    base, begin, end = _paged_span(seq_lens, gather_lens, token, next_n, per_token, table_width, swa_shift)
    maximum, denominator, acc = _paged_loop(
        query, swa_cache, swa_half_stride, swa_shift, swa_blocks, table + token // next_n * table_stride, base, begin, end,
        scale, maximum, denominator, acc, GROUPS, STAGES, DATA, SCALES,
    )  # fmt: skip
    length = tl.minimum(tl.load(lens + token), width)
    maximum, denominator, acc = _slots_loop(
        query, cache, half_stride, shift, num_blocks, ids + token * id_stride, length, scale, maximum, denominator, acc,
        GROUPS, STAGES, DATA, SCALES,
    )  # fmt: skip
    highest, total, values = _collapse(maximum, denominator, acc)
    real = head < heads
    logit = highest
    if HAS_SINK:
        logit = tl.load(sink + tl.minimum(head, heads - 1))
    factor, value = normalise(highest, total, logit, float("-inf"), HAS_SINK)
    at = token * heads + tl.minimum(head, heads - 1)
    where = at[:, None, None] * 512 + tl.arange(0, 8)[None, :, None] * 64 + tl.arange(0, 64)[None, None, :]
    tl.store(out + where, to_bf16(values * factor[:, None, None]), mask=real[:, None, None])
    tl.store(lse + at, value, mask=real)
