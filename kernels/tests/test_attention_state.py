"""Streaming softmax states: the reference against a brute force in FP64, the interpreted kernels against both."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ds4_kernels import layouts
from ds4_kernels.reference import attention_state as reference
from ds4_kernels.reference.attention import SoftmaxState
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

DIM = 512
SCALE = DIM**-0.5
INF = math.inf
F64 = torch.float64

interpreted = [pytest.mark.triton, pytest.mark.interpreted]


def backend(name: str) -> Any:
    if name == "reference":
        return reference
    pytest.importorskip("triton")
    from ds4_kernels.triton import attention_state

    return attention_state


both = pytest.mark.parametrize("name", ["reference", pytest.param("triton", marks=interpreted)])


def rand(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def brute(q: Tensor, keys: list[list[Tensor]], scale: float, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """(out, lse) in FP64; ``keys[t]`` lists the candidates of token t. One token, head and candidate at a time."""
    out, lse = torch.zeros(q.shape, dtype=F64), torch.full(q.shape[:2], -INF, dtype=F64)
    for t, rows in enumerate(keys):
        for h in range(q.shape[1]):
            total, values = 0.0, torch.zeros(q.shape[2], dtype=F64)
            for row in rows:
                weight = math.exp(float(q[t, h].double() @ row.double()) * scale)
                total += weight
                values += weight * row.double()
            if rows:
                lse[t, h] = math.log(total)
                out[t, h] = values / (total + (0.0 if sink is None else math.exp(float(sink[h]))))
    return out, lse


def check(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor], exact: bool = False) -> None:
    """``exact``: FP64 results; else BF16 out and FP32 lse."""
    out, lse = actual[0].double(), actual[1].double()
    atol, rtol = (1e-12, 1e-12) if exact else (1e-5, 2.0**-8)
    assert torch.allclose(out, expected[0], atol=atol, rtol=rtol)
    assert torch.equal(lse.isinf(), expected[1].isinf())
    assert torch.allclose(lse, expected[1], atol=1e-12 if exact else 1e-5, rtol=0 if exact else 1e-6)


def filled_cache(blocks: int, block_size: int, seed: int) -> Tensor:
    """A cache of random keys whose groups differ in scale."""
    keys = rand(blocks * block_size, DIM, seed=seed) * torch.exp2(torch.arange(8) - 5.0).repeat_interleave(64)
    cache = layouts.FP8_DS_MLA.allocate(blocks, block_size)
    layouts.FP8_DS_MLA.write(cache, block_size, torch.arange(len(keys)), *layouts.pack_fp8_ds_mla(keys))
    return cache


def read_slot(cache: Tensor, block_size: int, slot: int) -> Tensor:
    """One key, byte by byte as kernels.md 2.1 places them, without ``layouts``."""
    block, offset = cache[slot // block_size], slot % block_size
    data = block[offset * 576 : offset * 576 + 576]
    scales = block[block_size * 576 + offset * 8 : block_size * 576 + offset * 8 + 7]
    nope = [
        data[g * 64 : g * 64 + 64].view(torch.float8_e4m3fn).double() * 2.0 ** (int(scales[g]) - 127) for g in range(7)
    ]
    return torch.cat([*nope, data[448:].view(torch.bfloat16).double()])


def poison(cache: Tensor, block_size: int, slot: int) -> None:
    """Overwrite data and scales of a slot with NaN codes."""
    block, offset = cache[slot // block_size], slot % block_size
    block[offset * 576 : offset * 576 + 576] = 0xFF
    block[block_size * 576 + offset * 8 : block_size * 576 + offset * 8 + 8] = 0xFF


def poison_unused(cache: Tensor, block_size: int, used: list[list[int]]) -> None:
    for slot in set(range(len(cache) * block_size)) - {slot for slots in used for slot in slots}:
        poison(cache, block_size, slot)


def int32(rows: Any) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 6), st.integers(0, 8), st.booleans(), st.integers(0, 999))
def test_subsets_added_in_turn_equal_one_softmax(
    tokens: int, heads: int, gathered: int, indexed: int, with_sink: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    q, kv, flat = (
        rand(*s, seed=seed + i, dtype=F64) for i, s in enumerate([(tokens, heads, 16), (tokens, gathered, 16), (9, 16)])
    )
    lens_a, lens_b = (torch.randint(0, n + 2, (tokens,), generator=g) for n in (gathered, indexed))
    slot_ids = torch.randint(-1, 3, (tokens, gathered), generator=g)
    indices = torch.randint(-2, 12, (tokens, indexed), generator=g)
    keys = [
        [kv[t, i] for i in range(gathered) if i < lens_a[t] and slot_ids[t, i] >= 0]
        + [flat[indices[t, i]] for i in range(indexed) if i < lens_b[t] and 0 <= indices[t, i] < 9]
        for t in range(tokens)
    ]
    sink = rand(heads, seed=seed + 5) if with_sink else None
    state = reference.empty_state(tokens, heads, dim=16, dtype=F64)
    reference.accumulate_gathered(q, kv, lens_a, slot_ids, 0.25, state)
    reference.accumulate_indexed(q, flat, indices, lens_b, 0.25, state)
    check(reference.finish(state, sink), brute(q, keys, 0.25, sink), exact=True)


@both
@pytest.mark.parametrize("block_size", [2, 16])
def test_slots_read_planar_bytes_and_skip_poisoned_ones(name: str, block_size: int) -> None:
    ops = backend(name)
    blocks, heads = 12 // block_size + 1, 3
    total = blocks * block_size
    cache, q = filled_cache(blocks, block_size, seed=1), rand(3, heads, DIM, seed=2, dtype=torch.bfloat16)
    slot_ids = int32([[0, 3, -1, total - 1, total, 3, 1], [5, -1, 2, 2, 2, 9, 9], [1, 2, 3, 4, 5, 6, 7]])
    lens = int32([6, 3, 0])
    used = [[0, 3, total - 1, 3], [5, 2], []]
    poison_unused(cache, block_size, used)
    state = ops.empty_state(3, heads)
    assert ops.accumulate_slots(q, cache, block_size, slot_ids, lens, SCALE, state) is state
    keys = [[read_slot(cache, block_size, slot) for slot in row] for row in used]
    check(ops.finish(state, None), brute(q, keys, SCALE, None))


@both
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("next_n", [1, 2, 3])
def test_paged_window_ends_at_each_token(name: str, next_n: int, per_token: bool) -> None:
    ops = backend(name)
    block_size, window = 4, 6
    table = int32([[5, -1, 6], [0, 3, 2], [4, 99, 1]])
    ends = [10, next_n, 9]  # the second sequence starts with these very tokens
    tokens = [(r, ends[r] - (next_n - 1 - j)) for r in range(3) for j in range(next_n)]
    seq = int32([end for _, end in tokens] if per_token else ends)
    gather = seq.clamp_max(window)
    used = []
    for request, end in tokens:
        pages = [(int(table[request, p // block_size]), p % block_size) for p in range(max(end - window, 0), end)]
        used.append([page * block_size + offset for page, offset in pages if 0 <= page < 7])
    cache, q = filled_cache(7, block_size, seed=3), rand(len(tokens), 2, DIM, seed=4, dtype=torch.bfloat16)
    poison_unused(cache, block_size, used)
    state = ops.empty_state(len(tokens), 2)
    ops.accumulate_paged(q, cache, block_size, seq, gather, table, next_n, SCALE, state)
    keys = [[read_slot(cache, block_size, slot) for slot in row] for row in used]
    check(ops.finish(state, None), brute(q, keys, SCALE, None))


@both
def test_fused_decode_equals_one_softmax_over_both_caches(name: str) -> None:
    ops = backend(name)
    swa, entries = filled_cache(4, 4, seed=5), filled_cache(5, 2, seed=6)
    q, sink = rand(3, 5, DIM, seed=7, dtype=torch.bfloat16), rand(5, seed=8)
    table, seq = int32([[2, 0], [1, 3], [3, 3]]), int32([7, 3, 4])
    gather, slot_ids, lens = int32([5, 3, 0]), int32([[8, 1, 1], [0, -1, 4], [1, 1, 1]]), int32([3, 2, 0])
    window, extra = [[10, 11, 0, 1, 2], [4, 5, 6], []], [[8, 1, 1], [0], []]
    poison_unused(swa, 4, window)
    poison_unused(entries, 2, extra)
    keys = [[read_slot(swa, 4, s) for s in window[t]] + [read_slot(entries, 2, s) for s in extra[t]] for t in range(3)]
    for head_block in (None, 1, 8) if name == "triton" else (None,):
        out, lse = ops.attend_paged_and_slots(
            q, swa, 4, seq, gather, table, 1, entries, 2, slot_ids, lens, SCALE, sink, head_block
        )
        check((out, lse), brute(q, keys, SCALE, sink))
        assert (out[2] == 0).all()


@both
@pytest.mark.parametrize("head_block", [1, 2, 4, 8])
def test_head_blocks_and_starting_states(name: str, head_block: int) -> None:
    ops = backend(name)
    q, kv = rand(3, 5, DIM, seed=9, dtype=torch.bfloat16), rand(3, 7, DIM, seed=10, dtype=torch.bfloat16)
    flat = rand(6, DIM, seed=11, dtype=torch.bfloat16)
    indices = int32([[0, 0, 5, 6], [-1, 3, 2, 1], [4, 4, 4, 4]])
    lens_a, lens_b = int32([7, 0, 2]), int32([4, 2, 0])
    state = ops.empty_state(3, 5)
    ops.accumulate_gathered(q, kv, lens_a, None, SCALE, state, head_block)
    ops.accumulate_indexed(q, flat, indices, lens_b, SCALE, state, head_block)
    keys = [[*kv[0], flat[0], flat[0], flat[5]], [flat[3]], list(kv[2, :2])]
    check(ops.finish(state, None), brute(q, keys, SCALE, None))


@both
def test_tokens_without_candidates_leave_their_state_untouched(name: str) -> None:
    ops = backend(name)
    q, kv = rand(2, 3, DIM, seed=12, dtype=torch.bfloat16), torch.full((2, 4, DIM), torch.nan, dtype=torch.bfloat16)
    state = SoftmaxState(rand(2, 3, seed=13), rand(2, 3, seed=14).abs(), rand(2, 3, DIM, seed=15))
    before = [part.clone() for part in state]
    ops.accumulate_gathered(q, kv, int32([0, 4]), torch.full((2, 4), -1, dtype=torch.int32), SCALE, state)
    ops.accumulate_gathered(q, kv, int32([-3, 0]), None, SCALE, state)
    for part, old in zip(state, before, strict=True):
        assert torch.equal(part, old)


@both
@pytest.mark.parametrize("sink", [None, 0.5, INF, -INF])
def test_empty_rows_and_sinks(name: str, sink: float | None) -> None:
    """An empty row, alone or merged with an empty one, is 0 and -inf; a sink changes out alone."""
    ops = backend(name)
    full = SoftmaxState(rand(2, 3, seed=16), 1 + rand(2, 3, seed=17).abs(), rand(2, 3, DIM, seed=18))
    for part, nothing in zip(full, ops.empty_state(1, 3), strict=True):
        part[1] = nothing[0]
    limit = None if sink is None else torch.full((3,), sink)
    weight = 0.0 if sink is None else math.exp(min(sink, 1e3)) if sink < 700 else INF
    for out, lse in (
        ops.finish(full, limit),
        ops.finish_two(full, ops.empty_state(2, 3), limit),
        ops.finish_two(ops.empty_state(2, 3), full, limit),
    ):
        total = full.denominator[0].double() * full.maximum[0].double().exp()
        expected = full.accumulator[0].double() * (full.maximum[0].double().exp() / (total + weight)).unsqueeze(-1)
        assert torch.allclose(out[0].double(), expected, atol=1e-6, rtol=2.0**-8)
        assert torch.allclose(lse[0].double(), total.log(), atol=1e-5)
        assert (out[1] == 0).all()
        assert (lse[1] == -INF).all()


@both
@pytest.mark.parametrize(("empty", "value"), [("-inf", -INF), ("+inf", INF), ("-1e30", -1e30)])
def test_padded_heads_and_conventions_for_empty_rows(name: str, empty: Any, value: float) -> None:
    ops = backend(name)
    state = ops.empty_state(2, 3)
    state.maximum[0], state.denominator[0], state.accumulator[0] = 1.0, 2.0, 4.0
    out, lse = ops.finish(state, None, empty, 8)
    assert out.shape == (2, 8, DIM)
    assert (out[0, :3] == 2).all()
    assert (out[:, 3:] == 0).all()
    assert (out[1] == 0).all()
    assert torch.allclose(lse[0], torch.tensor(1 + math.log(2.0)))
    assert (lse[1] == torch.tensor(value)).all()


@both
@pytest.mark.parametrize("count", [1, 2, 4, 5, 9])
def test_merging_normalised_subsets_equals_one_softmax(name: str, count: int) -> None:
    ops = backend(name)
    q, sink = rand(2, 3, DIM, seed=20, dtype=torch.bfloat16), rand(3, seed=21)
    outs, lses, keys = [], [], [[], []]
    for index in range(count):
        parts = [list(rand(1 + index % 3, DIM, seed=30 + index)), []]
        keys[0] += parts[0]
        out, lse = brute(q, parts, SCALE, None)
        lse[1] = (-INF, INF, -1e30)[index % 3]
        out[1] = torch.nan
        outs.append(out.float())
        lses.append(lse.float())
    check(ops.merge_subsets(outs, lses, sink), brute(q, keys, SCALE, sink))


@both
@pytest.mark.parametrize(("tokens", "dim", "block_d"), [(3, 512, None), (3, 512, 64), (2, 96, None), (16, 64, None)])
def test_materialised_attention_equals_one_softmax(name: str, tokens: int, dim: int, block_d: int | None) -> None:
    ops = backend(name)
    q, kv = (rand(tokens, n, dim, seed=n, dtype=torch.bfloat16) for n in (2, 9))
    lens, sink = int32([9, 0, 4] + [5] * tokens)[:tokens], rand(2, seed=40)
    for t in range(tokens):
        kv[t, lens[t] :] = torch.nan
    keys = [list(kv[t, : lens[t]]) for t in range(tokens)]
    for limit in (sink, None):
        check(ops.attend_materialised(q, kv, lens, dim**-0.5, limit, block_d), brute(q, keys, dim**-0.5, limit))


@both
@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_scores_far_from_zero_neither_underflow_nor_overflow(name: str, level: float) -> None:
    ops = backend(name)
    kv = rand(1, 3, DIM, seed=60, dtype=torch.bfloat16)
    kv[..., 0] = torch.tensor([level, level + 2, level - 2]).bfloat16()
    q = torch.zeros(1, 2, DIM, dtype=torch.bfloat16)
    q[..., 0] = 1.0
    lens, expected = int32([3]), brute(q, [list(kv[0])], 1.0, None)
    check(ops.attend_materialised(q, kv, lens, 1.0), expected)
    state = ops.empty_state(1, 2)
    for i in range(3):
        ops.accumulate_gathered(q, kv[:, i : i + 1], int32([1]), None, 1.0, state)
    check(ops.finish(state), expected)


def test_fp64_states_keep_their_precision() -> None:
    cache, q = filled_cache(3, 2, seed=50), rand(1, 2, DIM, seed=51, dtype=F64)
    table, one = int32([[1, 2, 0]]), int32([1])
    out, lse = reference.attend_paged_and_slots(
        q, cache, 2, int32([5]), int32([5]), table, 1, cache, 2, int32([[4]]), one, SCALE
    )
    keys = [[read_slot(cache, 2, slot) for slot in (2, 3, 4, 5, 0, 4)]]
    check((out, lse), brute(q, keys, SCALE, None), exact=True)


def bad_calls(ops: Any) -> list[Callable[[], Any]]:
    q, kv, lens, ids = (
        torch.zeros(2, 3, DIM, dtype=torch.bfloat16),
        torch.zeros(5, DIM),
        int32([1, 1]),
        int32([[0], [0]]),
    )
    kv, state, cache = kv.bfloat16(), ops.empty_state(2, 3), filled_cache(2, 2, seed=1)
    return [
        lambda: ops.accumulate_indexed(q, kv, ids, lens[:1], SCALE, state),
        lambda: ops.accumulate_indexed(q, kv[:, :8], ids, lens, SCALE, state),
        lambda: ops.accumulate_indexed(q, kv, ids, lens, SCALE, ops.empty_state(2, 4)),
        lambda: ops.accumulate_indexed(q, kv, ids, lens, SCALE, state, 3),
        lambda: ops.accumulate_gathered(q, kv, lens, None, SCALE, state),
        lambda: ops.accumulate_slots(q, cache, 4, ids, lens, SCALE, state),
        lambda: ops.accumulate_slots(q, cache.view(torch.int8), 2, ids, lens, SCALE, state),
        lambda: ops.accumulate_paged(q, cache, 2, lens, lens, ids, 2, SCALE, state),
        lambda: ops.accumulate_paged(q, cache, 2, lens[:1], lens[:1], ids, 1, SCALE, state),
        lambda: ops.finish(state, torch.zeros(4)),
        lambda: ops.finish(state, None, "nan"),
        lambda: ops.finish(state, None, "-inf", 2),
        lambda: ops.finish_two(state, ops.empty_state(2, 4)),
        lambda: ops.merge_subsets([], []),
        lambda: ops.merge_subsets([q], [torch.zeros(2, 4)]),
        lambda: ops.attend_materialised(q, kv, lens, SCALE),
        lambda: ops.attend_materialised(q, q[:, :1], lens, SCALE, None, 96),
    ]


@both
def test_arguments_that_do_not_fit_are_refused(name: str) -> None:
    for call in bad_calls(backend(name)):
        with pytest.raises(ValueError, match=" "):
            call()


@pytest.mark.triton
def test_kernels_refuse_what_they_cannot_read() -> None:
    ops = backend("triton")
    q, lens, ids, state = torch.zeros(1, 1, DIM, dtype=torch.bfloat16), int32([1]), int32([[0]]), ops.empty_state(1, 1)
    for call in (
        lambda: ops.accumulate_indexed(q.float(), q[0], ids, lens, SCALE, state),
        lambda: ops.accumulate_indexed(q, q[0].float(), ids, lens, SCALE, state),
        lambda: ops.accumulate_indexed(q, q[0], ids.long(), lens, SCALE, state),
        lambda: ops.accumulate_indexed(q, q[0], ids, lens.long(), SCALE, state),
        lambda: ops.accumulate_indexed(q, q[0], ids, lens, SCALE, reference.empty_state(1, 1, dtype=F64)),
        lambda: ops.accumulate_slots(q, filled_cache(1, 3, seed=1), 3, ids, lens, SCALE, state),
    ):
        with pytest.raises(ValueError, match=r"must|power of two"):
            call()


@pytest.mark.triton
def test_few_tokens_give_every_head_a_program_of_its_own() -> None:
    choose = backend("triton").head_block_for
    assert [choose(t, 64, prefill=False) for t in (1, 4, 5, 15, 16, 4096)] == [1, 1, 2, 2, 4, 4]
    assert choose(4096, 64, prefill=True) == 8
    assert choose(4096, 3, prefill=True) == 4  # no wider than the heads


@pytest.mark.triton
def test_block_d_is_the_smallest_that_covers_the_head_unless_less_is_asked() -> None:
    backend("triton")
    from ds4_kernels.triton.attention_finish import value_block

    assert [value_block(d) for d in (1, 64, 65, 128, 192, 256, 257, 512)] == [64, 64, 128, 128, 256, 256, 512, 512]
    assert [value_block(192, asked) for asked in (64, 128, 256, 512)] == [64, 128, 256, 256]
    with pytest.raises(ValueError, match="513"):
        value_block(513)
