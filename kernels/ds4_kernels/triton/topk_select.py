"""Device functions of the top-k: one program keeps the best of a row while the row streams past.

A program owns two buffers of candidates (value, index) in device memory, which stay in cache. It reads the row once,
chunk by chunk, and appends what is not below a threshold. When a chunk does not fit, the best k move to the other
buffer and the threshold rises to the k-th value, so the result is exact for any data. The first threshold is a guess
from a sample of a long row; if it was too high (fewer than k passed) the row is read again without one. At the end the
k-th value is found by bisection of the order-preserving integer patterns, with early exit, and the rest is dropped.

Elements of a tile are ``[REPEAT, THREADS]``, one column a thread. A thread packs the tests of its 32 elements into one
mask, so that a chunk costs one scan over the threads, and then takes its few set bits one by one. Row pointers have no
known alignment on purpose: 4-byte loads of neighbouring threads leave every tile in that one layout.
"""

from __future__ import annotations

import triton
import triton.language as tl

THREADS = 128
"""Of a program."""
CHUNK = 32 * THREADS
SAMPLE = 2048
LARGEST_K = 3072

_CHUNK = tl.constexpr(CHUNK)
_SAMPLE = tl.constexpr(SAMPLE)
_THREADS = tl.constexpr(THREADS)
_LOWEST = tl.constexpr(-(2**31))
_HIGHEST = tl.constexpr(2**31 - 1)


def buffer_capacity(k: int) -> int:
    """Entries of a buffer: it must hold k and what eight elements of every thread may add."""
    return 2048 if k + 8 * THREADS <= 2048 else 4096


@triton.jit
def ordered(value):
    """int32 pattern that orders as the FP32 value does (-0 before +0); never ``_LOWEST`` but for a NaN."""
    bits = value.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def unordered(key):
    """The inverse of ``ordered``."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def tile_slots(ELEMENTS: tl.constexpr):
    """Positions of a tile's elements."""
    return tl.arange(0, ELEMENTS // _THREADS)[:, None] * _THREADS + tl.arange(0, _THREADS)[None, :]


@triton.jit
def _tile(base, ELEMENTS: tl.constexpr):
    """Pointers to a tile's elements: one per thread, and offsets that the load instructions hold."""
    return (base + tl.arange(0, _THREADS))[None, :] + (tl.arange(0, ELEMENTS // _THREADS) * _THREADS)[:, None]


@triton.jit
def _total(flag):
    return tl.sum(tl.sum(flag.to(tl.int32), 0), 0)


@triton.jit
def _mask(flag, ELEMENTS: tl.constexpr):
    """One int32 per thread, bit r for its element r."""
    bit = tl.full((ELEMENTS // _THREADS, 1), 1, tl.int32) << tl.arange(0, ELEMENTS // _THREADS)[:, None]
    return tl.sum(tl.where(flag, bit, 0), 0)


@triton.jit
def _bits(mask):
    """Number of set bits."""
    x = mask.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    return ((((x + (x >> 4)) & 0x0F0F0F0F) * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def _add_and_max(sum_a, max_a, sum_b, max_b):
    return sum_a + sum_b, tl.maximum(max_a, max_b)


@triton.jit
def _sum_and_max(count):
    """Both in one pass over the threads."""
    return tl.reduce((count, count), 0, _add_and_max)


@triton.jit
def _lowest_slot(mask):
    """(lowest set bit, its position in the tile); the mask is not 0."""
    bit = mask & -mask
    power = bit.to(tl.uint32, bitcast=True).to(tl.float32).to(tl.int32, bitcast=True) >> 23
    return bit, (power - 127) * _THREADS + tl.arange(0, _THREADS)


@triton.jit
def _bisect(key, low, high, count_low, want, enough):
    """Narrow ``count(key >= low) >= want > count(key >= high)`` until ``count_low <= enough`` or nothing lies between."""
    count_high = 0
    while (count_low > enough) & (high > low + 1):
        middle = (low & high) + ((low ^ high) >> 1)  # floor of the mean without overflow
        count = _total(key >= middle)
        holds = count >= want
        low = tl.where(holds, middle, low)
        count_low = tl.where(holds, count, count_low)
        high = tl.where(holds, high, middle)
        count_high = tl.where(holds, count_high, count)
    return low, high, count_low, count_high


@triton.jit
def _extent(key, held):
    """(lowest, highest + 1) of the held keys."""
    low = tl.min(tl.min(tl.where(held, key, _HIGHEST), 0), 0)
    high = tl.max(tl.max(tl.where(held, key, _LOWEST), 0), 0)
    return low, tl.minimum(high, _HIGHEST - 1) + 1


@triton.jit
def _sampled_threshold(source, total, K: tl.constexpr):
    """A value that about 1.25 k elements or a few hundred more reach, if the sample of 256 runs of eight is like the row."""
    slot = tile_slots(_SAMPLE)
    value = tl.load(source + (slot // 8) * (total // (_SAMPLE // 8)) + slot % 8)
    held = value == value  # NaN marks an empty position
    key = tl.where(held, ordered(value), _LOWEST)
    expected = tl.full((), K * _SAMPLE, tl.int32) // total
    want = expected + expected // 4 + 16
    low, high = _extent(key, held)
    low, _, _, _ = _bisect(key, low, high, _total(held), want, want + want // 8)
    return unordered(low)


@triton.jit
def _kth(values, fill, K: tl.constexpr, CAPACITY: tl.constexpr):
    """(low, high, count_low, count_high) of ``_bisect`` for the k best of the buffer's first ``fill``."""
    slot = tile_slots(CAPACITY)
    held = slot < fill
    key = tl.where(held, ordered(tl.load(_tile(values, CAPACITY), mask=held, other=0.0)), _LOWEST)
    low, high = _extent(key, held)
    return _bisect(key, low, high, fill, K, K)


@triton.jit
def _take(mask, count, place, longest, values, indices, out_value, out_index, offset, VALUES: tl.constexpr):
    """Each thread copies the tile's elements of its mask, but no more than ``count``, to ``place`` and on."""
    for turn in range(longest):
        live = turn < count
        bit, slot = _lowest_slot(tl.where(live, mask, 1))
        index = tl.load(indices + slot, mask=live, other=0)
        tl.store(out_index + place, index + offset, mask=live)
        if VALUES:
            tl.store(out_value + place, tl.load(values + slot, mask=live, other=0.0), mask=live)
        mask = mask ^ bit
        place += 1


@triton.jit
def _write_best(
    values, indices, fill, low, high, count_high, out_value, out_index, offset,
    K: tl.constexpr, VALUES: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Write the buffer's entries from ``high`` on, then those from ``low`` on until there are k; index + ``offset``."""
    slot = tile_slots(CAPACITY)
    held = slot < fill
    key = tl.where(held, ordered(tl.load(_tile(values, CAPACITY), mask=held, other=0.0)), _LOWEST)
    above = _mask(key >= high, CAPACITY)
    edge = _mask(key >= low, CAPACITY) ^ above  # all equal, unless exactly k reach ``low``
    count = _bits(above)
    _take(
        above,
        count,
        tl.cumsum(count, 0) - count,
        tl.max(count, 0),
        values,
        indices,
        out_value,
        out_index,
        offset,
        VALUES,
    )
    count = _bits(edge)
    place = count_high + tl.cumsum(count, 0) - count
    count = tl.minimum(count, tl.maximum(K - place, 0))
    _take(edge, count, place, tl.max(count, 0), values, indices, out_value, out_index, offset, VALUES)


@triton.jit
def _cut(values, indices, to_values, to_indices, fill, K: tl.constexpr, CAPACITY: tl.constexpr):
    """Copy the buffer's k best to the other buffer and give the threshold for what follows."""
    tl.debug_barrier()
    low, high, count_low, count_high = _kth(values, fill, K, CAPACITY)
    _write_best(values, indices, fill, low, high, count_high, to_values, to_indices, 0, K, True, CAPACITY)
    return unordered(tl.where(count_low <= K, low, high))


@triton.jit
def _chunk(source, left):
    """A chunk's elements of a row with ``left`` more; NaN, which no comparison selects, past the end."""
    if left >= _CHUNK:
        value = tl.load(_tile(source, _CHUNK))
    else:
        value = tl.load(_tile(source, _CHUNK), mask=tile_slots(_CHUNK) < left, other=float("nan"))
    return value


@triton.jit
def _stream(
    source, source_index, total, threshold, values, indices, capacity,
    K: tl.constexpr, PACKED: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Fill a buffer with everything that may be among the k best: (how many, where the buffer begins)."""
    tl.debug_barrier()  # every thread has finished with what the buffer held before
    fill = 0
    at = capacity * 0
    for begin in range(0, total, _CHUNK):
        passing = _mask(_chunk(source + begin, total - begin) >= threshold, _CHUNK)
        mask = passing
        count = _bits(mask)
        added, most = _sum_and_max(count)
        whole = fill + added <= CAPACITY
        for part in range(0, tl.where(whole, 1, 4)):
            if not whole:
                mask = passing & (tl.full((), 255, tl.int32) << (part * 8))
                count = _bits(mask)
                added, most = _sum_and_max(count)
                if fill + added > CAPACITY:
                    threshold = _cut(
                        values + at,
                        indices + at,
                        values + (capacity - at),
                        indices + (capacity - at),
                        fill,
                        K,
                        CAPACITY,
                    )
                    at = capacity - at
                    fill = K
            if added > 0:
                place = at + fill + tl.cumsum(count, 0) - count
                for _ in range(
                    0, most, 2
                ):  # two at a time: a store waits for its load, and the next load for the store
                    live = mask != 0
                    bit, slot = _lowest_slot(tl.where(live, mask, 1))
                    mask = tl.where(live, mask ^ bit, 0)
                    second = mask != 0
                    bit, next_slot = _lowest_slot(tl.where(second, mask, 1))
                    mask = tl.where(second, mask ^ bit, 0)
                    value = tl.load(source + begin + slot, mask=live, other=0.0)
                    next_value = tl.load(source + begin + next_slot, mask=second, other=0.0)
                    index, next_index = begin + slot, begin + next_slot
                    if PACKED:
                        index = tl.load(source_index + index, mask=live, other=0)
                        next_index = tl.load(source_index + next_index, mask=second, other=0)
                    tl.store(values + place, value, mask=live)
                    tl.store(indices + place, index, mask=live)
                    tl.store(values + place + 1, next_value, mask=second)
                    tl.store(indices + place + 1, next_index, mask=second)
                    place += 2
                fill += added
    return fill, at


@triton.jit
def select(
    source, source_index, total, values, indices, capacity, out_value, out_index, offset,
    K: tl.constexpr, PACKED: tl.constexpr, EMIT: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """Write the k best of a row's ``total`` > k first positions to ``out_index``, with their values if EMIT.

    Indices are positions plus ``offset``, or (PACKED) come from ``source_index``. ``values`` and ``indices`` are two
    buffers each, ``capacity`` apart.
    """
    everything = tl.full((), float("-inf"), tl.float32)
    threshold = everything
    if (total > CAPACITY) & (total >= 4 * K):
        threshold = _sampled_threshold(source, total, K)
    fill = 0
    at = 0
    unread = total > 0
    while unread:
        fill, at = _stream(source, source_index, total, threshold, values, indices, capacity, K, PACKED, CAPACITY)
        unread = (fill < K) & (threshold > everything)  # the guess was too high
        threshold = everything
    values += at
    indices += at
    tl.debug_barrier()
    low, high, _, count_high = _kth(values, fill, K, CAPACITY)
    _write_best(values, indices, fill, low, high, count_high, out_value, out_index, offset, K, EMIT, CAPACITY)
    if fill < K:  # NaN among the logits, which the contract excludes, or empty positions
        slot = tl.arange(0, CAPACITY)
        absent = (slot >= fill) & (slot < K)
        tl.store(out_index + slot, tl.full((CAPACITY,), -1, tl.int32), mask=absent)
        if EMIT:
            tl.store(out_value + slot, tl.full((CAPACITY,), float("nan"), tl.float32), mask=absent)
